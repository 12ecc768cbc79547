"""A host that has never had a network: it has all, speaks of no public address, and takes no other bundle."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BUNDLE = "/srv/gpufleet-bundle"
PUBLIC = (
    r"https?://[a-z0-9.-]*(github|astral|pypi|pythonhosted|nvidia|docker|debian|ubuntu|pytorch|huggingface)\.[a-z]+"
)
# What the roles write; what the distribution wrote before them is not theirs.
RENDERED = (
    *(
        "/etc/uv",
        "/etc/gpufleet",
        "/etc/profile.d/gpufleet.sh",
        "/etc/docker",
        "/opt/uv/environment",
        "/run/gpufleet-offline",
    ),
    *("/etc/apt/sources.list.d", "/etc/apt/keyrings", "/var/lib/gpufleet", "/workspaces", "/usr/local/bin"),
)


def test_there_is_no_network(host: Any) -> None:
    assert host.check_output("ls /sys/class/net").split() in (["lo"], ["docker0", "lo"])


def test_everything_is_there(host: Any) -> None:
    assert host.run("su alice -c 'uv --version'").stdout.startswith("uv ")
    assert host.run("su alice -c '/opt/uv/venv/bin/python -c \"import packaging; print(1)\"'").stdout == "1\n"
    for package in ("ca-certificates", "docker.io", "nvidia-container-toolkit", "htop"):
        assert host.package(package).is_installed, package
    assert host.run("docker info").rc == 0


def test_no_rendered_file_has_a_public_address(host: Any) -> None:
    there = [path for path in RENDERED if host.file(path).exists]
    assert len(there) > 6
    sources = [path for path in host.check_output("ls /etc/apt/sources.list.d").split() if path.startswith("gpufleet")]
    assert sources == []
    # apt's lists have the packages' home pages, and the record what the host's own sources were.
    left_out = "--exclude-dir=.venv --exclude-dir=lists --exclude=debian.sources --exclude=record.json"
    assert host.run(f"grep -rIiEo {left_out} %s {' '.join(there)}", PUBLIC).stdout == ""


def test_the_hosts_own_sources_are_as_they_were(host: Any) -> None:
    assert "signed-by" not in host.run("cat /etc/apt/sources.list").stdout
    assert host.run("apt-config dump Dir::Etc::sourceparts").stdout.strip() == 'Dir::Etc::sourceparts "sources.list.d";'


@contextmanager
def damaged(host: Any, command: str) -> Iterator[None]:
    """Damage a copy, and put it in the bundle's place for a while; and have something to do for the run."""
    assert host.run(f"mv {BUNDLE} {BUNDLE}.whole && cp -al {BUNDLE}.whole {BUNDLE} && cd {BUNDLE} && {command}").rc == 0
    assert host.run("mv /usr/local/bin/uv /root/uv").rc == 0
    try:
        yield
    finally:
        assert host.run(f"rm -rf {BUNDLE} && mv {BUNDLE}.whole {BUNDLE} && mv /root/uv /usr/local/bin/uv").rc == 0


def state(host: Any) -> str:
    return str(
        host.check_output(
            "find /etc /opt/uv /usr/local /var/lib/dpkg/status -xdev -type f -printf '%p %T@ %s\\n' | sort"
        )
    )


def refused(host: Any, again: Callable[..., Any], *arguments: str, **wishes: Any) -> str:
    before = state(host)
    run = again(*arguments, **wishes)
    assert not run.ok
    assert "\n" not in run.sentence.strip()
    assert state(host) == before
    return str(run.sentence)


def test_a_changed_wheel_is_refused(host: Any, again: Callable[..., Any]) -> None:
    with damaged(host, "w=$(ls wheels/packaging-*) && cp $w x && echo >>x && mv x $w"):
        said = refused(host, again)
    assert re.search(r"wheels/packaging-\S+ is not what was packed.*gpufleet_bundle=.*\./run bundle", said), said


def test_a_package_that_is_missing_is_refused(host: Any, again: Callable[..., Any]) -> None:
    with damaged(host, "rm apt/*/docker.io_*"):
        said = refused(host, again, "--check")
    assert "docker.io_" in said
    assert "is missing" in said


def test_a_manifest_made_to_fit_is_refused(host: Any, again: Callable[..., Any]) -> None:
    lie = "cp python/downloads.json x && echo >>x && mv x python/downloads.json"
    fit = "find . -type f ! -name MANIFEST -printf '%P\\n' | sort | xargs -d '\\n' sha256sum >y && mv y MANIFEST"
    with damaged(host, f"{lie} && {fit}"):
        assert "gpufleet_bundle_checksum=" in refused(host, again)


def test_a_bundle_that_is_not_there_or_not_finished_is_refused(host: Any, again: Callable[..., Any]) -> None:
    with damaged(host, "rm MANIFEST"):
        assert "an incomplete bundle, without its MANIFEST" in refused(host, again)
    with damaged(host, f"rm -rf {BUNDLE}"):
        assert f"Found no bundle; wished is gpufleet_bundle={BUNDLE}" in refused(host, again)


def test_a_host_that_lost_something_gets_it_back_from_the_bundle(host: Any, again: Callable[..., Any]) -> None:
    host.check_output("rm -rf /opt/uv/venv /usr/local/bin/uv")
    run = again()
    assert run.ok, run.sentence
    assert again().changed == 0
    assert host.run("su alice -c '/opt/uv/venv/bin/python -c \"import packaging\"'").rc == 0


# --- the proxy -------------------------------------------------------------------------------------------------------

PROXY = "http://127.0.0.1:3128"
# Writes down who asks for what, and gives nothing.
PROGRAM = """
import http.server
class Proxy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open("/var/tmp/asked", "a") as file:
            print(self.command, self.path, self.headers.get("User-Agent"), file=file)
        self.send_error(503)
    do_CONNECT = do_HEAD = do_POST = do_GET
http.server.ThreadingHTTPServer(("127.0.0.1", 3128), Proxy).serve_forever()
"""


def asked(host: Any, command: str = "") -> str:
    """Return what the proxy was asked since the last look, by a command or by what went before."""
    if command:
        host.run("rm -f /var/tmp/asked")
        host.run(command)
    return str(host.run("cat /var/tmp/asked; rm -f /var/tmp/asked").stdout)


def test_one_wish_for_a_proxy_reaches_every_program(host: Any, again: Callable[..., Any]) -> None:
    host.check_output("nohup python3 -c %s >/dev/null 2>&1 </dev/null & echo $! >/var/tmp/proxy", PROGRAM)
    wish = {"gpufleet_proxy": {"http_proxy": PROXY, "https_proxy": PROXY, "no_proxy": "localhost"}}
    run = again(**wish)
    assert run.ok, run.sentence
    assert again(**wish).changed == 0
    assert "CONNECT engine.invalid:443" in asked(host, "docker pull engine.invalid/image")
    ask = "import urllib.request as u; u.urlopen('https://shell.invalid/')"
    host.check_output("echo %s >/home/alice/ask.py", ask)
    assert "CONNECT shell.invalid:443" in asked(host, "su - alice -c '/usr/bin/python3 ask.py'")
    private = "uv pip install --index-url https://uv.invalid/simple --target /tmp/x nothing"
    assert "CONNECT uv.invalid:443" in asked(host, f"su - alice -c '{private}'")
    unit = "systemd-run --wait --quiet --pipe -p EnvironmentFile=/etc/gpufleet/unit.env env"
    assert f"https_proxy={PROXY}" in host.check_output(unit)
    assert f"HTTPS_PROXY={PROXY}" in host.check_output("cat /etc/gpufleet/container.env")
    # What a run with a network asks: the look, apt and uv.
    index = {"gpufleet_offline": False, "uv_python_index_url": "https://index.invalid/simple"}
    host.check_output("mv /opt/uv/venv /opt/uv/away")
    said = again(**wish, **index).sentence
    host.check_output("mv /opt/uv/away /opt/uv/venv")
    assert "uv_python_index_url=https://index.invalid/simple" in said
    assert "CONNECT index.invalid:443" in asked(host)
    host.check_output("apt-get remove -qq -y htop")
    assert not again(**wish, gpufleet_offline=False, container_toolkit_without_gpu=False).ok
    assert "Debian APT" in asked(host)
    host.check_output("rm /usr/local/bin/uv")
    assert not again(**wish, gpufleet_offline=False, gpufleet_containers=False).ok
    assert re.search("^CONNECT mirror.gpufleet.test:443 uv/", asked(host), re.MULTILINE)
    # And back.
    run = again()
    assert run.ok, run.sentence
    assert again().changed == 0
    host.check_output("kill $(cat /var/tmp/proxy)")
    assert host.run("grep -rl 127.0.0.1:3128 /etc").stdout == ""
