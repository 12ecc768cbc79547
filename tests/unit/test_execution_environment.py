"""The execution environment: its definition builds a context that has the collection, pinned as it is here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEFINITION: dict[str, Any] = yaml.safe_load((ROOT / "execution-environment.yml").read_text())


def locked(name: str) -> str:
    found = re.search(rf"^{name}==(\S+)", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `./run build` and `ansible-builder create` make."""
    place = tmp_path_factory.mktemp("environment")
    shutil.copy(ROOT / "execution-environment.yml", place)
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    for command in (
        ["ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(place)],
        ["ansible-builder", "create", "--file", "execution-environment.yml", "--context", "context"],
    ):
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return place / "context"


def recipe(context: Path) -> str:
    (found,) = [path for path in context.iterdir() if path.name in ("Containerfile", "Dockerfile")]
    return found.read_text()


def test_the_tools_are_those_of_the_locks() -> None:
    wished = DEFINITION["dependencies"]
    assert wished["ansible_core"]["package_pip"] == f"ansible-core=={locked('ansible-core')}"
    assert wished["ansible_runner"]["package_pip"] == f"ansible-runner=={locked('ansible-runner')}"


def test_another_base_image_is_an_argument(context: Path) -> None:
    assert f'ARG EE_BASE_IMAGE="{DEFINITION["images"]["base_image"]["name"]}"' in recipe(context)
    assert "FROM $EE_BASE_IMAGE AS base" in recipe(context)


def test_the_collection_is_where_the_build_looks_for_it(context: Path) -> None:
    assert "COPY _build /build" in recipe(context)
    (wished,) = yaml.safe_load((context / "_build/requirements.yml").read_text())["collections"]
    inside = Path(wished["name"]).relative_to("/build")
    assert (context / "_build" / inside).is_file()
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert inside.name == f"gpufleet-host-{version}.tar.gz"
