"""What users install is what the checkout is: built, installed and run as ansible-galaxy and ansible-playbook do."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("build")
    command = [str(BIN / "ansible-galaxy"), "collection", "build", str(ROOT), "--output-path", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("gpufleet-host-*.tar.gz")
    return built


def test_only_what_a_user_needs_is_in_it(tarball: Path) -> None:
    with tarfile.open(tarball) as tar:
        names = {member.name for member in tar.getmembers() if member.isfile() or member.issym()}
    tops = {name.split("/")[0] for name in names}
    assert tops <= {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "FILES.json",
        "LICENSE",
        "MANIFEST.json",
        "README.md",
        "docs",
        "files",
        "meta",
        "playbooks",
        "plugins",
        "pyproject.toml",
        "requirements",
        "roles",
        "site.yml",
    }
    assert {"playbooks/site.yml", "files/torch_probe.py", "roles/torch_probe/files/torch_probe.py"} <= names
    assert "files/torch_probe/cli.py" in names
    # The lock that fleet_pull installs, and none of the tools'.
    assert {name for name in names if name.startswith("requirements/")} == {"requirements/site.txt"}


def test_the_installed_collection_plans_this_machine(tarball: Path, tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").touch()
    install = [str(BIN / "ansible-galaxy"), "collection", "install", str(tarball), "--offline", "-p", str(tmp_path)]
    environment = os.environ | {
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path),
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_INJECT_FACT_VARS": "false",
    }
    subprocess.run(install, check=True, capture_output=True, env=environment)
    for playbook, more in (("gpufleet.host.plan", []), ("gpufleet.host.site", ["--syntax-check"])):
        command = [str(BIN / "ansible-playbook"), "-i", "localhost,", "-c", "local", playbook, *more]
        command += ["-e", f"ansible_become=false ansible_python_interpreter={sys.executable}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        if not more:
            assert "changed=0" in done.stdout
            assert "torch 2." in done.stdout
