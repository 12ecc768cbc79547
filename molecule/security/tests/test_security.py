"""Secrets stay where they belong, two runs at once break nothing, and nobody has more rights than needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

SITE = "../../site.yml"
HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parents[1]
CANARY = "canary[-_]of[-_]"
# Where each secret is to be, and nobody but its owner reads it.
PLACES = {
    "/etc/gpufleet/docker-proxy.env",
    "/home/alice/.cache/huggingface/token",
    "/home/alice/.config/gpufleet/env",
    "/home/bob/.kaggle/kaggle.json",
    "/root/site.netrc",
}


class Argv:
    """The command lines of a machine during a run."""

    def __init__(self, host: Any) -> None:
        self.host = host
        program = (HERE / "argv.py").read_text()
        host.check_output("rm -f /var/tmp/argv /var/tmp/argv.stop")
        host.check_output("nohup python3 -c %s /var/tmp/argv >/dev/null 2>&1 </dev/null &", program)

    def stop(self) -> str:
        self.host.check_output(
            "touch /var/tmp/argv.stop; for _ in $(seq 50); do test -e /var/tmp/argv && break; sleep 0.1; done"
        )
        return str(self.host.check_output("tr '\\0' ' ' </var/tmp/argv; rm -f /var/tmp/argv /var/tmp/argv.stop"))


def loud(tmp: Path, *arguments: str, playbook: str = SITE) -> str:
    """Run a playbook as loudly as it goes, and return all that it said and logged."""
    log = tmp / "ansible.log"
    words = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        "-i",
        os.environ["MOLECULE_INVENTORY_FILE"],
        "-vvv",
        "--diff",
    ]
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "ansible.cfg"),
        "ANSIBLE_LOG_PATH": str(log),
        "PWD": str(tmp),  # where the reports go
    }
    done = subprocess.run(
        [*words, *arguments, str((HERE / playbook).resolve())],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        cwd=tmp,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(log.read_text()) > 10000
    return done.stdout + done.stderr + log.read_text()


def canaries(text: str) -> list[str]:
    return [line[:300] for line in text.splitlines() if re.search(CANARY, line)]


@pytest.mark.parametrize("arguments", [("--check",), ()], ids=["check", "run"])
def test_no_secret_is_said_logged_or_an_argument(host: Any, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    argv = Argv(host)
    said = loud(tmp_path, *arguments)
    assert canaries(said) == []
    seen = argv.stop()
    assert "python" in seen
    assert canaries(seen) == []


def test_each_secret_is_in_its_place_and_nowhere_else(host: Any) -> None:
    found = host.run(
        f"grep -rIlE '{CANARY}' / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev --exclude-dir=overlay2"
    )
    assert set(found.stdout.split()) == PLACES
    for path in PLACES:
        assert host.file(path).mode & 0o077 == 0, path
    assert canaries(host.check_output("journalctl --no-pager")) == []


def test_reports_have_no_secret(tmp_path: Path) -> None:
    for playbook in ("report", "doctor", "plan"):
        said = loud(
            tmp_path, "-e", f"doctor_log_path={tmp_path}/ansible.log", playbook=f"../../playbooks/{playbook}.yml"
        )
        assert canaries(said) == [], playbook
    written = [path for path in (tmp_path / "reports").rglob("*") if path.is_file()]
    assert {"doctor.txt", "fleet.html", "fleet.json"} <= {path.name for path in written}
    for path in written:
        assert canaries(path.read_text()) == [], path


@pytest.mark.parametrize(
    "wish",
    [
        {"docker_engine_registry_mirrors": ["https://anna:canary-of-mirror@mirror.invalid"]},
        {"uv_python_index_url": "https://anna:canary-of-index@index.invalid/simple"},
        {"gpufleet_proxy": {"https_proxy": "http://anna:canary-of-site@proxy.invalid:3128"}},
        {"env_profile_overrides": {"HF_TOKEN": "canary-of-override"}},
    ],
    ids=["mirror", "index", "proxy", "override"],
)
def test_a_secret_where_everybody_would_read_it_is_refused_and_not_told(
    again: Callable[..., Any], wish: dict[str, Any]
) -> None:
    run = again(playbook=SITE, **wish)
    assert not run.ok
    assert next(iter(wish)) in run.sentence
    assert not re.search(CANARY, run.sentence)


# --- rights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "bound"), [("gpufleet-probe.service", 4.5), ("gpufleet-cache-clean.service", 1.5)])
def test_units_have_few_rights(host: Any, unit: str, bound: float) -> None:
    """By systemd's own measure, from 0 to 10; a unit without any of these settings has 9.6."""
    said = host.run(f"systemd-analyze security --no-pager {unit}").stdout
    (found,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert float(found) <= bound, said


def test_nothing_listens_beyond_loopback(host: Any) -> None:
    listening = host.check_output("cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == \"0A\" {print $2}'").split()
    beyond = [
        address for address in listening if not re.match(r"(\w{6}7F|0{24}01000000|0{16}FFFF0000\w{6}7F):", address)
    ]
    # The engine's resolver for containers of the test network, which is this container's and not the host's.
    assert beyond == []


def test_the_engine_is_reached_by_its_socket_alone(host: Any) -> None:
    assert host.file("/var/run/docker.sock").mode == 0o660
    assert host.check_output("id -Gn bob").split() == ["bob", "ml"]


def test_services_of_the_workspace_have_few_rights(host: Any) -> None:
    said = host.check_output(
        "docker compose -f /workspaces/torch_starter/compose.yaml --profile debug config --format json"
    )
    services = json.loads(said)["services"]
    dev = services["dev"]
    assert (dev["cap_drop"], dev["security_opt"], dev.get("cap_add")) == (["ALL"], ["no-new-privileges:true"], None)
    for service in services.values():
        assert service["user"] == "vscode"
        assert not service.get("privileged")
        assert service.get("network_mode") != "host"
        assert not any("docker.sock" in json.dumps(volume) for volume in service["volumes"])
        assert all(port.get("host_ip") == "127.0.0.1" for port in service.get("ports", []))
    assert services["dev-debug"]["cap_add"] == ["SYS_PTRACE"]


def test_a_second_user_changes_nothing_that_others_run(host: Any) -> None:
    """Neither a member of the group nor a stranger; the shared directories hold data, and no code of others."""
    for user in ("bob", "mallory"):
        places = "/etc /opt /usr /var/lib/gpufleet /home/alice /root /workspaces"
        # uv leaves its lock open to all, and nobody reads what is in it.
        writable = f"find {places} -xdev ! -type l ! -name .lock -writable 2>/dev/null"
        assert host.run(f"su {user} -s /bin/sh -c '{writable}'").stdout == ""
    path = host.check_output("su - alice -c 'echo $PATH'").split(":")
    for folder in [*path, "/opt/uv/venv/lib/python3.12/site-packages"]:
        assert host.run(f"su bob -c 'test -w {folder}'").rc != 0, folder


def test_a_second_user_reads_no_secret(host: Any) -> None:
    for user, others in (("bob", PLACES - {"/home/bob/.kaggle/kaggle.json"}), ("mallory", PLACES)):
        for path in others:
            assert host.run(f"su {user} -s /bin/sh -c 'cat {path}'").rc != 0, (user, path)


def test_a_vaults_secret_is_as_silent(host: Any, tmp_path: Path) -> None:
    secrets = [{"user": "bob", "name": "hf_token", "content": "canary-of-vault"}]
    wishes, password = tmp_path / "wishes.yml", tmp_path / "password"
    wishes.write_text(json.dumps({"ml_cache_secrets": secrets}))
    password.write_text("canary-of-password")
    command = [
        str(Path(sys.executable).parent / "ansible-vault"),
        "encrypt",
        "--vault-password-file",
        str(password),
        str(wishes),
    ]
    subprocess.run(command, check=True, capture_output=True)
    argv = Argv(host)
    said = loud(tmp_path, "-e", f"@{wishes}", "--vault-password-file", str(password))
    assert canaries(said) == []
    assert canaries(argv.stop()) == []
    token = host.file("/home/bob/.cache/huggingface/token")
    assert (token.content_string.strip(), token.mode, token.user) == ("canary-of-vault", 0o600, "bob")


# --- at once ---------------------------------------------------------------------------------------------------------

HOLD = """
import fcntl, time
file = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
time.sleep(900)
"""
HELD = "/run/gpufleet-run.json"
RELEASE = "kill $(cat /var/tmp/holder)"
# With the mark of a run that was cut off, so that the disk that the real packages would take is not asked for again.
BARE = "rm -rf /opt/uv/venv /opt/uv/python /usr/local/bin/uv /etc/gpufleet/env.json /opt/gpufleet /etc/uv"
BARE += "; touch /opt/uv/venv.unfinished"


def whole(host: Any, again: Callable[..., Any]) -> None:
    run = again(playbook=SITE)
    assert run.ok, run.sentence
    assert again(playbook=SITE).changes == set()
    assert host.check_output("dpkg --audit") == ""
    assert host.run("ls /var/lib/gpufleet/pending").stdout == ""
    places = "/etc /opt /usr/local /srv /var/lib/gpufleet /home"
    assert host.check_output(f"find {places} -xdev -name '.*.gpufleet-*' -o -xdev -name '*.unfinished'") == ""
    assert host.check_output("/opt/uv/venv/bin/python -c 'import packaging; print(1)'") == "1"


@pytest.mark.parametrize("later", [0, 4, None], ids=["at once", "4 s later", "when it is held"])
def test_two_controllers_take_turns(
    host: Any, again: Callable[..., Any], started: Callable[..., Any], later: int | None
) -> None:
    host.check_output(BARE)
    first = started(playbook=SITE)
    if later is None:
        host.check_output(f"timeout 300 sh -c 'until test -e {HELD}; do sleep 0.2; done'")
    else:
        time.sleep(later)
    second = again(playbook=SITE)
    first.wait()
    assert (first.returncode, second.ok) == (0, True), second.sentence
    assert later is not None or "waits for the run of" in second.stderr
    assert not host.file(HELD).exists
    whole(host, again)


@pytest.fixture
def held(host: Any) -> None:
    """A package is missing, and another dpkg works, as unattended-upgrades would."""
    host.check_output("apt-get -qq remove -y htop")
    host.check_output("nohup python3 -c %s >/dev/null 2>&1 </dev/null & echo $! >/var/tmp/holder", HOLD)


@pytest.mark.usefixtures("held")
def test_another_run_of_dpkg_is_waited_for(host: Any, again: Callable[..., Any]) -> None:
    """By a task that says so: it began before the lock was released, and ended after."""
    released = datetime.now(timezone.utc) + timedelta(seconds=60)
    timer = threading.Timer(60, host.run, args=(RELEASE,))
    timer.start()
    run = again(playbook=SITE)
    timer.join()
    assert run.ok, run.sentence
    (waited,) = [
        task["task"]
        for play in run.result["plays"]
        for task in play["tasks"]
        if "waits" in task["task"]["name"] and any(told.get("changed") for told in task["hosts"].values())
    ]
    begun, ended = (datetime.fromisoformat(waited["duration"][edge]) for edge in ("start", "end"))
    assert begun < released < ended
    assert host.package("htop").is_installed


@pytest.mark.usefixtures("held")
def test_a_lock_that_is_never_released_is_told(host: Any, again: Callable[..., Any]) -> None:
    run = again(playbook=SITE, dev_container_lock_timeout=3)
    host.check_output(RELEASE)
    assert not run.ok
    assert "lock" in run.sentence
    whole(host, again)


def test_a_user_works_on_while_the_environment_grows(host: Any, again: Callable[..., Any]) -> None:
    work = "import time\nwhile True:\n    import packaging.version as v\n    v.Version('1')\n    time.sleep(0.01)"
    host.check_output(
        "su alice -c %s",
        f'nohup /opt/uv/venv/bin/python -c "{work}" >/home/alice/said 2>&1 </dev/null & echo $! >/home/alice/pid',
    )
    run = again(playbook=SITE, uv_python_groups=["dev", "notebook"])
    assert run.ok, run.sentence
    assert run.changed > 0
    assert host.run("kill -0 $(cat /home/alice/pid)").rc == 0, host.file("/home/alice/said").content_string
    host.check_output("kill $(cat /home/alice/pid)")
    assert host.file("/home/alice/said").content_string == ""
    whole(host, again)
