"""The probe as one file: what a host gets is the same program."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible_collections.gpufleet.host.plugins.filter.python_application import pack, python_application

ROOT = Path(__file__).parents[2]
PROBE = ROOT / "files/torch_probe.py"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("opt") / "torch_probe.py"
    target.write_bytes(base64.b64decode(python_application(str(PROBE))))
    target.chmod(0o755)
    return target


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd="/")


@pytest.mark.parametrize("options", [["--version"], ["--schema"], ["--list-checks"], ["--explain", "software.nvml"]])
def test_the_file_does_what_the_checkout_does(packed: Path, options: list[str]) -> None:
    for flags in ([], ["-I", "-S"]):  # -I leaves the script's directory out of the search path
        here, there = run(sys.executable, *flags, PROBE, *options), run(sys.executable, *flags, packed, *options)
        assert (here.returncode, here.stderr) == (0, "")
        assert (there.returncode, there.stdout, there.stderr) == (0, here.stdout, "")


def test_it_runs_like_a_program(packed: Path) -> None:
    assert run(packed, "--version").stdout == run(sys.executable, PROBE, "--version").stdout


def test_it_judges_with_the_data_inside(packed: Path) -> None:
    """The reference data and the policy are files of the package: read from a directory and from an archive alike."""
    recording = ROOT / "tests/fixtures/probe/rtx4090.json"
    report = json.loads(run(sys.executable, "-I", packed, "--simulate", recording, "--json", "-").stdout)
    assert report["reference"]["sha256"]
    assert report["gpus"][0]["reference_row"]["id"]


def test_equal_sources_make_equal_bytes(packed: Path, tmp_path: Path) -> None:
    assert pack(PROBE) == packed.read_bytes() == pack(ROOT / "roles/torch_probe/files/torch_probe.py")
    names = zipfile.ZipFile(packed).namelist()
    assert {"__main__.py", "torch_probe/cli.py", "torch_probe/policy.json"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


def test_a_package_wins_over_its_entry() -> None:
    """The entry bears the package's name; imported from beside it, the name is the package."""
    done = run(
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(PROBE.parent)!r}); import torch_probe; print(torch_probe.__file__)",
    )
    assert done.stdout.strip().endswith("files/torch_probe/__init__.py")
