"""The dev container's image, really built from small locks by this machine's engine: its layers, caches and secrets.

`GPUFLEET_TEST_IMAGE_CHANNEL=cu13` builds the channel's real set as well, gigabytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible.plugins.filter.core import FilterModule as Core
from ansible_collections.gpufleet.host.plugins.module_utils.dev_image import image_hash, torch_lock
from hosts import archives, engine
from hosts.common import HostsError, cache, run, suffix
from image_registry import image_registry

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/dev_container"
LOCKS = Path(__file__).parent / "locks"
BASE = f"gpufleet-test/{os.environ.get('GPUFLEET_TEST_RELEASE', 'debian13')}:current"
PROJECT = f"gpufleet-test-image{suffix()}"
PYTHON_PATH = "/opt/uv/python/cpython-3.12-test"
CANARY = "canary-7f3a9c51d2"
STAMP = time.time_ns()
# A site's own authorities, where this machine has some: the builds go through the same proxy.
CA = [path.read_text() for path in sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))]


def _client() -> str | None:
    """Return a client that builds with BuildKit; one of version 23 and newer needs its buildx."""
    with contextlib.suppress(HostsError):
        for candidate in dict.fromkeys([engine.client(), "/usr/bin/docker"]):
            version = run([candidate, "version", "-f", "{{.Client.Version}}"]).split(".")[0]
            if int(version) < 23 or engine.try_docker("buildx", "version"):
                return candidate
    return None


CLIENT = _client()
pytestmark = [
    pytest.mark.skipif(CLIENT is None, reason="no container engine answers whose client has BuildKit"),
    pytest.mark.skipif(
        CLIENT is not None and engine.try_docker("image", "inspect", BASE) is None,
        reason=f"there is no {BASE}: python tests/hosts up",
    ),
]


def docker(*words: str) -> str:
    return run([CLIENT or "docker", *words])


def lock(name: str) -> str:
    """Return a lock that the engine has not cached since the last time: what is cached is given no secret."""
    return f"# {STAMP}\n{(LOCKS / f'{name}.txt').read_text()}"


@pytest.fixture(scope="session")
def tools() -> Iterator[str]:
    """uv and Python as the role packs them, at the host's paths."""
    uv = archives.uv(cache() / "archives/engine")
    python = archives.cpython(cache() / "archives/engine")
    name = f"gpufleet-test-tools{suffix()}:{uv.checksum[:12]}-{python.checksum[:12]}"
    if engine.try_docker("image", "inspect", name) is None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as target:
            for archive, top, place in (
                (uv.archive, "uv-", "usr/local/bin/"),
                (python.archive, "python", PYTHON_PATH[1:] + "/"),
            ):
                with tarfile.open(archive) as source:
                    for entry in source:
                        if entry.isdir() or not entry.name.startswith(top):
                            continue
                        data = source.extractfile(entry) if entry.isfile() else None
                        entry.name = place + entry.name.partition("/")[2]
                        target.addfile(entry, data)
        subprocess.run([CLIENT or "docker", "import", "-", name], input=packed.getvalue(), check=True)
    yield name
    engine.try_docker("image", "rm", name)


def order_of(tools: str, torch: str, core: str, group: str, uid: int = 1000, **image: Any) -> dict[str, Any]:
    values = {
        "base": BASE,
        "tools": tools,
        "python": "3.12",
        "python_path": PYTHON_PATH,
        "uv": "0",
        "channel": "test",
        "groups": ["notebook"],
        "packages": [],
        "user": "vscode",
        "slim": False,
        "name": PROJECT,
        "project": PROJECT,
        "workspace": "torch_starter",
        "index_url": "",
        "certificates": bool(CA),
        **image,
    }
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters.update(Core().filters())
    context = {
        "Dockerfile": environment.from_string((ROLE / "templates/Dockerfile.j2").read_text()).render(
            __dev_container_image=values
        ),
        ".dockerignore": (ROLE / "templates/dockerignore.j2").read_text(),
        "requirements/torch.txt": torch,
        "requirements/core.txt": torch + core,
        "requirements/notebook.txt": group,
    }
    for file in sorted((ROLE / "files/image").glob("*")):
        context[f".devcontainer/image/{file.name}"] = file.read_text()
    if CA:
        context[".devcontainer/image/ca.pem"] = "\n".join(CA)
    args = {"BASE_IMAGE": BASE, "TOOLS_IMAGE": tools, "USER_UID": str(uid), "USER_GID": str(uid)}
    digest = image_hash({"context": context, "args": args})
    return {
        "context": context,
        "args": args,
        "hash": digest,
        "image": f"{PROJECT}:test-{digest[:12]}",
        "moving": f"{PROJECT}:test",
        "project": PROJECT,
        "tools": {"image": tools, "paths": []},
        "base_archive": "",
        "network": "default",
        "keep": 9,
        "netrc": "",
        "room_bytes": 0,
    }


def build(order: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the program that the role runs."""
    return subprocess.run(
        [sys.executable, "-I", str(ROLE / "files/build_image.py")],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{Path(CLIENT or '').parent}:{os.environ['PATH']}"},
        check=False,
    )


class Built:
    """What the program said, and the image that came of it."""

    def __init__(self, order: dict[str, Any]) -> None:
        done = build(order)
        self.log = done.stderr
        assert done.returncode == 0, done.stdout + self.log[-3000:]
        self.answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.image: str = order["image"]
        self.layers: list[str] = json.loads(docker("image", "inspect", "-f", "{{json .RootFS.Layers}}", self.image))

    def downloaded(self) -> tuple[float, float]:
        """Return the bytes that apt had to get, and those of all that it installed."""
        found = re.search(r"Need to get ([\d.,]+ \w?B)(?:/([\d.,]+ \w?B))? of archives", self.log)
        assert found is not None, self.log[-3000:]
        sizes = []
        for text in (found[1], found[2] or found[1]):
            number, unit = text.replace(",", "").split()
            sizes.append(float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit])
        return sizes[0], sizes[1]


@pytest.fixture(scope="module")
def first(tools: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    netrc = tmp_path_factory.mktemp("secret") / "netrc"
    netrc.write_text(f"machine index.example login someone password {CANARY}\n")
    order = order_of(tools, lock("torch-before"), lock("light-before"), lock("notebook"))
    built = Built({**order, "netrc": str(netrc)})
    yield built
    for name in docker("image", "ls", "-q", "--filter", f"label=host.gpufleet.workspace={PROJECT}").split():
        engine.try_docker("image", "rm", "-f", name)


@pytest.fixture(scope="module")
def contents(first: Built, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, list[str]]]:
    """Each layer of the image: what made it, and the paths in it; none of them may hold the secret."""
    saved = tmp_path_factory.mktemp("saved") / "image.tar"
    docker("save", "-o", str(saved), first.image)
    with saved.open("rb") as file:
        left = b""
        while chunk := file.read(1 << 22):
            assert CANARY.encode() not in left + chunk
            left = chunk[-64:]
    with tarfile.open(saved) as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        manifest = json.loads(read("manifest.json"))[0]
        config = read(manifest["Config"])
        assert CANARY.encode() not in config
        made = [step.get("created_by", "") for step in json.loads(config)["history"] if not step.get("empty_layer")]
        found = []
        for by, name in zip(made[-len(manifest["Layers"]) :], manifest["Layers"], strict=True):
            inner = archive.extractfile(name)
            assert inner is not None
            with tarfile.open(fileobj=inner) as layer:
                found.append((by, layer.getnames()))
    saved.unlink()
    return found


@pytest.fixture(scope="module")
def places(contents: list[tuple[str, list[str]]]) -> tuple[int, int]:
    """Return which layer is the heavy one, and which the light one."""
    heavy = next(index for index, (by, _) in enumerate(contents) if "uv pip install" in by)
    light = next(index for index, (by, _) in enumerate(contents) if "uv pip sync" in by)
    return heavy, light


def test_no_layer_holds_the_secret(first: Built, contents: list[tuple[str, list[str]]]) -> None:
    assert len(contents) == len(first.layers)
    assert CANARY not in docker("history", "--no-trunc", first.image) + docker("image", "inspect", first.image)


def test_the_light_layer_leaves_the_heavy_one_alone(
    contents: list[tuple[str, list[str]]], places: tuple[int, int]
) -> None:
    heavy, light = places
    files = [name for name in contents[heavy][1] if name.endswith((".py", ".pyc"))]
    assert any(name.endswith("pynvml.py") for name in files)
    assert any(name.endswith(".pyc") for name in files)
    assert not [name for name in contents[light][1] if "pynvml" in name or "nvidia_ml_py" in name]


def test_the_second_build_does_nothing(tools: str, first: Built) -> None:
    again = Built(order_of(tools, lock("torch-before"), lock("light-before"), lock("notebook")))
    steps = re.findall(r"(?m)^#(\d+) \[(?!internal)[^\]]*\d+/\d+\] (?:RUN|COPY)", again.log)
    cached = set(re.findall(r"(?m)^#(\d+) CACHED", again.log))
    assert steps
    assert set(steps) <= cached
    assert again.layers == first.layers


def test_a_light_upgrade_moves_no_gigabytes(tools: str, first: Built, places: tuple[int, int]) -> None:
    heavy, light = places
    bumped = Built(order_of(tools, lock("torch-before"), lock("light-after"), lock("notebook")))
    assert bumped.layers[: heavy + 1] == first.layers[: heavy + 1]
    assert bumped.layers[light] != first.layers[light]


def test_an_upgrade_of_torch_moves_its_layer_and_none_before(tools: str, first: Built, places: tuple[int, int]) -> None:
    heavy, _light = places
    bumped = Built(order_of(tools, lock("torch-after"), lock("light-before"), lock("notebook")))
    assert bumped.layers[heavy] != first.layers[heavy]
    assert bumped.layers[: heavy - 1] == first.layers[: heavy - 1]


def test_another_person_shares_all_packages(tools: str, first: Built, places: tuple[int, int]) -> None:
    theirs = Built(order_of(tools, lock("torch-before"), lock("light-before"), lock("notebook"), uid=1007))
    assert theirs.layers[: places[1] + 1] == first.layers[: places[1] + 1]
    assert docker("run", "--rm", theirs.image, "sh", "-c", "id -u; id -g; id -un").split() == ["1007", "1007", "vscode"]
    assert docker(
        "run", "--rm", theirs.image, "sh", "-c", "touch ~/.cache/uv/x && stat -c %u ~/.cache/uv/x"
    ).split() == ["1007"]


@pytest.fixture(scope="module")
def slim(tools: str, first: Built) -> Built:
    # An option that means nothing makes it a step that the engine has not cached since the last time.
    packages = ["file", f"--option=Test::Time={STAMP}"]
    order = order_of(tools, lock("torch-before"), lock("light-before"), lock("notebook"), slim=True, packages=packages)
    return Built(order)


def test_slim_has_no_compiler_and_apt_downloads_nothing_twice(first: Built, slim: Built) -> None:
    needed, all_of_it = slim.downloaded()
    assert needed < all_of_it / 5
    asked = "for each in gcc g++ cc file git tmux htop; do command -v $each || true; done"
    said = docker("run", "--rm", slim.image, "sh", "-c", asked)
    assert said.split() == ["/usr/bin/file", "/usr/bin/git", "/usr/bin/tmux", "/usr/bin/htop"]
    headers = "find / -xdev -name Python.h -o -xdev -name stdio.h -o -xdev -name cc1"
    assert docker("run", "--rm", "--user", "0", slim.image, "sh", "-c", headers) == ""
    assert "Python.h" in docker("run", "--rm", "--user", "0", first.image, "sh", "-c", headers)


def test_an_account_of_the_bases_own_is_not_taken_away(tools: str, first: Built) -> None:
    done = build(order_of(tools, lock("torch-before"), lock("light-before"), lock("notebook"), uid=6))
    assert done.returncode == 1
    assert "an account of the system's by the number of the workspace's user: man (6)" in done.stdout


def test_a_base_by_its_digest(tools: str, first: Built, tmp_path: Path) -> None:
    saved = tmp_path / "base.tar"
    docker("save", "-o", str(saved), BASE)
    with image_registry(saved) as name:
        docker("pull", name)
    try:
        order = order_of(tools, lock("torch-before"), lock("light-before"), lock("notebook"))
        order["args"]["BASE_IMAGE"] = name
        order["image"] += "-digest"
        built = Built(order)  # its registry answers no more
        assert built.layers == first.layers
        other = {**order, "args": {**order["args"], "BASE_IMAGE": name[:-4] + "0000"}}
        done = build(other)
        assert done.returncode == 1
        assert name[:-4] in done.stdout
    finally:
        engine.try_docker("image", "rm", name)


# --- without a network ---


def offline(tools: str, light: str) -> dict[str, Any]:
    """An order without a network, which is another step to the engine each time: no layer is left, the mounts are."""
    order = order_of(tools, lock("torch-before"), light, lock("notebook"), slim=True, packages=["file"])
    return {**order, "network": "none"}


def test_a_light_change_needs_no_network_even_where_no_layer_is_left(tools: str, first: Built, slim: Built) -> None:
    # What uv has in its cache is what an earlier image of this host had.
    Built(order_of(tools, lock("torch-before"), lock("light-after"), lock("notebook")))
    built = Built(offline(tools, lock("light-after")))
    shared = len(set(built.layers) & {*first.layers, *slim.layers})
    assert shared <= 1 + len(CA), "the base, and what trusts the site's authorities"
    said = docker("run", "--rm", built.image, "python", "-c", "import packaging; print(packaging.__version__)")
    assert said == "26.3\n"


def test_what_no_cache_has_is_named(tools: str, first: Built, slim: Built) -> None:
    never = "six==1.10.0 --hash=sha256:0ff78c403d9bccf5a425a6d31a12aa6b47f1c21ca4dc2573a7e2f32a97335eb1\n"
    done = build(offline(tools, lock("light-before") + never))
    assert done.returncode == 1
    assert "six was not found in the cache" in done.stdout
    assert "uv_python_index_url" in done.stdout
    assert engine.try_docker("image", "inspect", first.image) is not None


# --- what a person finds in it ---


@pytest.fixture(scope="module")
def container(first: Built) -> Iterator[tuple[str, float]]:
    """A container of it as compose starts it, and the seconds until it was healthy."""
    options = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--init"]
    name = docker("run", "--detach", *options, first.image).strip()
    yield name, seconds_until_healthy(name)
    engine.try_docker("rm", "-f", "-v", name)


def seconds_until_healthy(name: str) -> float:
    started = time.monotonic()
    while health(name) != "healthy" and time.monotonic() < started + 60:
        time.sleep(0.5)
    assert health(name) == "healthy", docker("inspect", "-f", "{{json .State.Health}}", name)
    return time.monotonic() - started


def health(name: str) -> str:
    return docker("inspect", "-f", "{{.State.Health.Status}}", name).strip()


def test_it_is_healthy_within_the_guides_half_minute(container: tuple[str, float]) -> None:
    assert container[1] < 30


@pytest.mark.parametrize("shell", [["bash", "-lc"], ["bash", "-c"], ["sh", "-c"], ["sh", "-lc"]], ids=" ".join)
def test_python_is_the_environments_in_every_shell(container: tuple[str, float], shell: list[str]) -> None:
    said = docker("exec", container[0], *shell, "command -v python; python -c 'import sys; print(sys.prefix)'")
    assert said.split() == ["/opt/venv/bin/python", "/opt/venv"]


def test_a_person_changes_nothing_that_is_shared(container: tuple[str, float]) -> None:
    script = """
    touch /opt/venv/x 2>/dev/null && echo wrote
    find /opt/venv /opt/uv /usr/local -writable ! -type l 2>/dev/null
    find / -xdev -user "$(id -u)" ! -path "/home/vscode*" ! -path "/workspaces/*" ! -path "/proc/*" ! -path "/dev/*" \
        2>/dev/null
    stat -c '%U %a' /opt/venv
    """
    assert docker("exec", container[0], "sh", "-c", script).split("\n") == ["root 755", ""]


def test_an_extension_of_python_compiles_and_runs(container: tuple[str, float]) -> None:
    script = r"""
    set -e; cd "$(mktemp -d)"
    printf '%s\n' '#include <Python.h>' \
        'static struct PyModuleDef m = {PyModuleDef_HEAD_INIT, "launcher", 0, -1, 0};' \
        'PyMODINIT_FUNC PyInit_launcher(void) { return PyModule_Create(&m); }' >launcher.c
    include=$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')
    gcc -shared -fPIC -I"$include" launcher.c -o launcher.so
    echo 'int main() { return 0; }' >x.cpp; g++ x.cpp -o x; ./x
    python -c 'import launcher; print(launcher.__name__)'
    """
    assert docker("exec", container[0], "sh", "-c", script).strip() == "launcher"


def test_modules_are_loaded_again_in_ipython(container: tuple[str, float]) -> None:
    said = docker("exec", container[0], "ipython", "--no-banner", "--colors=NoColor", "-c", "%autoreload")
    assert "not found" not in said
    magics = "get_ipython().magics_manager.magics['line']"
    asked = f"from IPython import get_ipython; print({magics}['autoreload'].__self__._reloader.enabled)"
    assert docker("exec", container[0], "ipython", "--colors=NoColor", "-c", asked).split()[-1] == "True"


def test_the_bill_of_materials_names_what_is_installed(container: tuple[str, float]) -> None:
    bill = json.loads(docker("exec", container[0], "cat", "/opt/venv/sbom.cdx.json"))
    listed = json.loads(docker("exec", container[0], "pip", "list", "--format=json"))
    named = {(part["name"].lower(), part["version"]) for part in bill["components"]}
    assert {(part["name"].lower(), part["version"]) for part in listed} == named
    assert len(named) > 10


def test_labels_say_what_it_is(first: Built) -> None:
    labels = json.loads(docker("image", "inspect", "-f", "{{json .Config.Labels}}", first.image))
    assert labels["host.gpufleet.workspace"] == PROJECT
    assert labels["org.opencontainers.image.base.name"] == BASE
    assert first.image.endswith(labels["host.gpufleet.build-hash"][:12])


@pytest.mark.parametrize(
    "fault", ["rm /opt/venv/bin/python", "rm -r /opt/venv/lib/python3.12/site-packages/nvidia_ml_py-*"]
)
def test_a_broken_environment_is_unhealthy(first: Built, fault: str) -> None:
    name = docker("run", "--detach", "--health-interval", "1s", "--health-start-period", "1s", first.image).strip()
    try:
        docker("exec", "-u", "0", name, "sh", "-c", fault)
        until = time.monotonic() + 60
        while health(name) != "unhealthy" and time.monotonic() < until:
            time.sleep(0.5)
        assert health(name) == "unhealthy"
    finally:
        engine.try_docker("rm", "-f", "-v", name)


# --- the real set ---


@pytest.mark.skipif(not os.environ.get("GPUFLEET_TEST_IMAGE_CHANNEL"), reason="GPUFLEET_TEST_IMAGE_CHANNEL is not set")
def test_a_channels_real_set_trains(tools: str) -> None:
    locks = ROOT / "files/environments" / os.environ["GPUFLEET_TEST_IMAGE_CHANNEL"]
    core = (locks / "core.txt").read_text()
    order = order_of(tools, torch_lock(core), "", "")
    order["context"]["requirements/core.txt"] = core
    for group in ("dev", "notebook"):
        order["context"][f"requirements/{group}.txt"] = (locks / f"{group}.txt").read_text()
    order["hash"] = image_hash(order["context"])
    order["image"] = f"{PROJECT}:real-{order['hash'][:12]}"
    name = None
    try:
        built, again = Built(order), Built(order)
        name = docker("run", "--detach", built.image).strip()
        healthy = seconds_until_healthy(name)
        smoke = (ROOT / "roles/uv_python/files/smoke.py").read_text()
        run([CLIENT or "docker", "exec", "-i", name, "python", "-"], stdin=smoke)
        print(json.dumps({**built.answer, "again_seconds": again.answer["seconds"], "healthy_seconds": healthy}))
        assert again.layers == built.layers
    finally:
        for words in ([["rm", "-f", "-v", name]] if name else []) + [["image", "rm", order["image"], order["moving"]]]:
            engine.try_docker(*words)
