"""verify-setup: all is well in a good workspace, and each injected fault is found by name and ends with 1."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dev_workspace import FILES, Workspace

_SPEC = importlib.util.spec_from_file_location("verify_setup", FILES / "verify_setup.py")
assert _SPEC is not None
assert _SPEC.loader is not None
verify: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["verify_setup"] = verify
_SPEC.loader.exec_module(verify)

GOOD = {"numpy": "1.26.4", "torch": "2.14.1+cu130", "pytest": "8.4.2"}
LOCK = "".join(f"{name}=={version.split('+')[0]} \\\n    --hash=sha256:00\n" for name, version in GOOD.items())
CUDA_TORCH = """
class version: cuda = "13.0"
class _Sum:
    def __mul__(self, other): return self
    def sum(self): return 4.0
def ones(*_, device): return _Sum()
class cuda:
    is_available = staticmethod(lambda: {available})
    device_count = staticmethod(lambda: {count})
    get_device_properties = staticmethod(lambda index: type("P", (), {{"name": "Stand-in H100"}}))
"""


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    """A good workspace without a GPU."""
    made = Workspace(tmp_path)
    for name, version in GOOD.items():
        made.package(name, version)
    made.write("requirements/core.txt", LOCK)
    made.write("requirements/dev.txt", "colorama==0.4.6 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n")
    made.stand_in("uv", does="echo uv 0.13.0\n")
    made.stand_in("htop", "tmux", "gcc", "gpufleet-env")
    for name in ("home/.kaggle/kaggle.json", "home/.cache/huggingface/token", "a place/torch_starter/.env.local"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
        path.chmod(0o600)
    return made


def ask(work: Workspace, **env: str) -> tuple[int, dict[str, tuple[str, str]]]:
    done = work.dev("verify-setup", "--json", **env)
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert document["schema"] == 1
    found = {check["name"]: (check["status"], check["found"]) for check in document["checks"]}
    assert len(found) == len(document["checks"])
    assert (document["verdict"] == "FAIL") == bool(done.returncode)
    assert all(check["todo"] for check in document["checks"] if check["status"] in ("FAIL", "WARN"))
    return done.returncode, found


def test_a_good_workspace(work: Workspace) -> None:
    before = work.files()
    code, found = ask(work)
    assert [(name, *rest) for name, rest in found.items() if rest[0] == "FAIL"] == []
    assert code == 0
    assert found["locks"] == ("PASS", "all 3 packages are there in the locked version")
    assert found["package torch"] == ("PASS", "2.14.1+cu130 in >=2.0,<3.0, imported")
    assert found["package pandas"] == ("SKIP", "this workspace's locks do not have it")
    assert {found[name][0] for name in ("gpu", "nvidia-smi", "torch cuda")} <= {"SKIP", "WARN"}
    assert work.files() == before


def test_as_text(work: Workspace) -> None:
    done = work.dev("verify-setup")
    lines = done.stdout.splitlines()
    assert "PASS  locks: all 3 packages are there in the locked version" in lines
    assert lines[-1].split(":")[0] in ("PASS", "WARN")
    assert " 0 FAIL, " in lines[-1]


Fault = Callable[[Workspace], Any]


def site(work: Workspace) -> Path:
    return work.path / ".venv/lib/python3.12/site-packages"


FAULTS: list[tuple[str, str, Fault]] = [
    ("python", "does not start", lambda w: (w.path / ".venv/bin/python").unlink()),
    ("locks", "numpy is missing, not 1.26.4", lambda w: (site(w) / "numpy-1.26.4.dist-info/METADATA").unlink()),
    ("locks", "torch is 2.14.1+cu130, not 2.15.0", lambda w: w.write("requirements/core.txt", "torch==2.15.0\n")),
    ("locks", "they name no package", lambda w: w.write("requirements/core.txt", "# empty\n")),
    ("locks", "core.txt cannot be read", lambda w: (w.path / "requirements/core.txt").unlink()),
    ("locks", "alpha is missing, not 1", lambda w: [w.write(".env", "DEV_LOCKS=locks\n")]
     + [w.write(f"locks/{name}.txt", "alpha==1\n") for name in ("core", "dev")]),
    ("package scipy", "is in the locks and not", lambda w: w.write("requirements/core.txt", LOCK + "scipy==1.17.1\n")),
    ("package pandas", "1.5.3 is outside of >=2.0,<3.0", lambda w: w.package("pandas", "1.5.3")),
    ("package pandas", "3.0.0 is outside of >=2.0,<3.0", lambda w: w.package("pandas", "3.0.0")),
    ("package numpy", "ImportError: bad", lambda w: (site(w) / "numpy.py").write_text("raise ImportError('bad')")),
    ("package torch", "Python ended with -6", lambda w: (site(w) / "torch.py").write_text("import os; os.abort()")),
    ("package pytest", "SystemExit", lambda w: (site(w) / "pytest.py").write_text("raise SystemExit(0)")),
    ("pip check", "requires x", lambda w: w.stand_in("uv", does="echo 'package torch requires x'; exit 1\n")),
    ("uv", "uv was not found", lambda w: (w.bin / "uv").unlink()),
    ("pyproject.toml", "No such file", lambda w: (w.path / "pyproject.toml").unlink()),
    ("pyproject.toml", "line 1", lambda w: w.write("pyproject.toml", "a = = 1\n")),
    ("key kaggle.json", "is 0644: others can read it", lambda w: (w.base / "home/.kaggle/kaggle.json").chmod(0o644)),
    ("key .env.local", "is 0640", lambda w: (w.path / ".env.local").chmod(0o640)),
    ("key token", "is 0604", lambda w: (w.base / "home/.cache/huggingface/token").chmod(0o604)),
    ("key .env.local in git", "it is tracked", lambda w: [
        subprocess.run(["git", *c], cwd=w.path, env=w.env, check=True, capture_output=True)
        for c in (["init", "-q"], ["add", ".env.local"])
    ]),
    ("data", "is a link to nothing", lambda w: (w.base / "shared/data").rmdir()),
    ("cache torch", "cannot be written", lambda w: (w.base / "home/.cache/torch").write_text("a file")),
    ("gpu", "there is none on the bus", lambda w: w.settings(gpu=True)),
    ("nvidia-smi", "nvidia-smi was not found", lambda w: w.settings(gpu=True)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "fault"), FAULTS, ids=[f"{row[0]}: {row[1]}" for row in FAULTS])
def test_an_injected_fault_is_found(work: Workspace, name: str, text: str, fault: Fault) -> None:
    if name == "gpu" and verify.gpus_on_bus(Path("/sys")):
        pytest.skip("this machine has a GPU")
    fault(work)
    if name == "python":
        (work.bin / "python3").symlink_to(sys.executable)
    code, found = ask(work)
    assert code == 1
    assert found[name][0] == "FAIL"
    assert text in found[name][1]


@pytest.mark.parametrize(
    ("name", "env"),
    [
        ("CUDA_VISIBLE_DEVICES", {"CUDA_VISIBLE_DEVICES": "all"}),
        ("CUDA_VISIBLE_DEVICES", {"CUDA_VISIBLE_DEVICES": ""}),
        ("endpoints", {"HF_ENDPOINT": "http://hub.example"}),
        ("endpoints", {"UV_DEFAULT_INDEX": "http://index.example/simple"}),
        ("cache hub", {"HF_HUB_CACHE": "/proc/1/hub"}),
    ],
)
def test_a_variable_that_does_harm_is_found(work: Workspace, name: str, env: dict[str, str]) -> None:
    code, found = ask(work, **env)
    assert (code, found[name][0]) == (1, "FAIL")


@pytest.mark.parametrize(
    "env",
    [
        {"CUDA_VISIBLE_DEVICES": "0,1"},
        {"CUDA_VISIBLE_DEVICES": "GPU-8a1b2c3d-0000"},
        {"CUDA_VISIBLE_DEVICES": "MIG-8a1b2c3d-0000"},
        {"UV_DEFAULT_INDEX": "https://index.example/simple", "HF_ENDPOINT": "http://localhost:8080"},
    ],
)
def test_a_variable_that_does_none_is_not(work: Workspace, env: dict[str, str]) -> None:
    assert ask(work, **env)[0] == 0


def test_a_version_of_ones_own_choice_is_a_warning(work: Workspace) -> None:
    work.package("pandas", "3.0.0")
    work.write("requirements/core.txt", LOCK + "pandas==3.0.0\n")
    code, found = ask(work)
    assert (code, found["package pandas"][0]) == (0, "WARN")


def test_one_bad_import_hides_no_other(work: Workspace) -> None:
    (site(work) / "numpy.py").write_text("import os; os._exit(9)")
    (site(work) / "pytest.py").write_text("import gone")
    _, found = ask(work)
    assert found["package numpy"] == ("FAIL", "import numpy: Python ended with 9 (it said nothing)")
    assert found["package torch"][0] == "PASS"
    assert "No module named 'gone'" in found["package pytest"][1]


def test_the_hosts_catalogue(work: Workspace) -> None:
    work.stand_in("gpufleet-env", does="echo 'OMP_NUM_THREADS: not set'; exit 1\n")
    code, found = ask(work)
    assert (code, found["variables"]) == (0, ("WARN", "1 differ, first OMP_NUM_THREADS: not set"))


# --- GPUs, on a made-up bus ---


def gpu_setup(work: Workspace, cards: int, **settings: object) -> Any:
    work.settings(gpu=True, **settings)
    for number in range(cards):
        device = work.base / f"sys/bus/pci/devices/0000:0{number}:00.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030200\n")
    told = json.loads((work.path / ".devcontainer/workspace.json").read_text())
    return verify.Setup(work.path, "host", work.path / ".venv", told, work.base / "sys")


@pytest.mark.parametrize(
    ("cards", "smi", "available", "count", "expected"),
    [
        (1, "echo GPU 0\n", True, 1, {"gpu": "PASS", "nvidia-smi": "PASS", "torch cuda": "PASS"}),
        (2, "echo GPU 0\n", True, 1, {"gpu": "PASS", "nvidia-smi": "PASS", "torch cuda": "WARN"}),
        (1, "echo no driver; exit 9\n", False, 0, {"gpu": "PASS", "nvidia-smi": "FAIL", "torch cuda": "FAIL"}),
        (0, "echo GPU 0\n", True, 1, {"gpu": "FAIL", "nvidia-smi": "PASS", "torch cuda": "WARN"}),
    ],
)
def test_gpus(
    work: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    cards: int,
    smi: str,
    available: bool,
    count: int,
    expected: dict[str, str],
) -> None:
    setup = gpu_setup(work, cards)
    work.stand_in("nvidia-smi", does=smi)
    (site(work) / "torch.py").write_text(CUDA_TORCH.format(available=available, count=count))
    monkeypatch.setenv("PATH", str(work.bin))
    monkeypatch.setenv("STAND_IN_RECORD", str(work.record))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(verify, "installed", lambda: {"torch": "2.14.1"})
    assert {check.name: check.status for check in verify.check_gpu(setup)} == expected


def test_a_torch_for_another_cuda_than_the_hosts(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = gpu_setup(work, 1, channel="cu128")
    (site(work) / "torch.py").write_text(CUDA_TORCH.format(available=True, count=1))
    monkeypatch.setattr(verify, "installed", lambda: {"torch": "2.14.1"})
    assert [(c.name, c.status) for c in verify.check_cuda(setup, 1)][-1] == ("torch build", "WARN")


# --- the container ---


def test_in_the_container(work: Workspace) -> None:
    work.enter_container()
    for name, version in GOOD.items():
        work.package(name, version, venv=work.container)
    code, found = ask(work, UV_LINK_MODE="copy", HF_HOME=str(work.base / "home/.cache/huggingface"))
    assert {"shm", "limit memlock", "limit stack", "confinement"} <= set(found)
    assert found["variables"][0] == "PASS"
    assert str(work.container) in found["python"][1]
    # Root writes everywhere, and is told so; somebody else's writable environment is a fault.
    assert found["confinement"][0] == "WARN" if os.getuid() == 0 else found["environment's owner"][0] == "FAIL"
    assert code == (0 if os.getuid() == 0 else 1) or found["shm"][0] == "FAIL"


@pytest.mark.parametrize(("size", "status"), [(64 << 20, "FAIL"), (512 << 20, "WARN"), (4 << 30, "PASS")])
def test_shm(work: Workspace, monkeypatch: pytest.MonkeyPatch, size: int, status: str) -> None:
    monkeypatch.setattr(verify.shutil, "disk_usage", lambda path: type("Usage", (), {"total": size, "free": size}))
    setup = verify.Setup(work.path, "container", work.container, {}, shm=work.base)
    assert [check.status for check in verify.check_shm(setup)] == [status]


@pytest.mark.parametrize(("place", "remedy"), [("container", "dev_container_shm_size"), ("host", "mount /")])
def test_small_shm_is_mended_where_it_is(
    work: Workspace, monkeypatch: pytest.MonkeyPatch, place: str, remedy: str
) -> None:
    monkeypatch.setattr(verify.shutil, "disk_usage", lambda path: type("Usage", (), {"total": 1 << 20, "free": 0}))
    (check,) = verify.check_shm(verify.Setup(work.path, place, work.container, {}, shm=work.base))
    assert remedy in str(check)


@pytest.mark.parametrize(("free", "status"), [(500 << 20, "FAIL"), (5 << 30, "WARN"), (50 << 30, "PASS")])
def test_disk(work: Workspace, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(verify.shutil, "disk_usage", lambda path: type("Usage", (), {"total": free, "free": free}))
    setup = verify.Setup(work.path, "host", work.path / ".venv", {})
    assert {check.status for check in verify.check_disk(setup)} == {status}


@pytest.mark.parametrize(
    ("version", "wished", "inside"),
    [
        ("1.26.4", ">=1.26,<2.0", True),
        ("2.0", ">=1.26,<2.0", False),
        ("2.0.0", ">=1.26,<2.0", False),
        ("1.26", ">=1.26,<2.0", True),
        ("1.25.9", ">=1.26,<2.0", False),
        ("0.17.6", ">=0.5.3,<1.0", True),
        ("0.5.3", ">=0.5.3,<1.0", True),
        ("2.14.1+cu130", ">=2.0,<3.0", True),
        ("2.0.0rc1", ">=2.0,<3.0", True),
    ],
)
def test_within(version: str, wished: str, inside: bool) -> None:
    assert verify.within(version, wished) is inside


def test_the_ranges_are_the_guides() -> None:
    text = (Path(__file__).parents[2] / "docs/environment-guide.md").read_text(encoding="utf-8")
    for name, (wished, _) in verify.PACKAGES.items():
        assert f'{name} = "{wished}"' in text
    assert text.count(' = ">=') == len(verify.PACKAGES)


def test_a_check_that_breaks_is_a_failure_and_hides_no_other(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_boom(_: object) -> Any:
        raise RuntimeError("boom")

    monkeypatch.setattr(verify, "CHECKS", (verify.check_workspace, check_boom, verify.check_shm))
    found = verify.ask(verify.Setup(work.path, "host", work.path / ".venv", {}))
    assert [(check.name, check.status) for check in found][:2] == [("pyproject.toml", "PASS"), ("boom", "FAIL")]
    assert len(found) == 3
