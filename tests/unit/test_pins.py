"""One version of uv, named in several places: they agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "files/environments").glob("*/*.txt")) + sorted((ROOT / "requirements").glob("*.txt"))


def role_defaults() -> dict[str, Any]:
    defaults: dict[str, Any] = yaml.safe_load((ROOT / "roles/uv_python/defaults/main.yml").read_text())
    return defaults


def test_uv_has_one_version_and_one_checksum_an_architecture() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("get_uv", ROOT / "requirements/get_uv.py")
    assert spec is not None
    assert spec.loader is not None
    get_uv = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(get_uv)
    defaults = role_defaults()
    locked = re.search(r"^uv==(\S+)", (ROOT / "requirements/site.txt").read_text(), re.MULTILINE)
    assert locked is not None
    assert get_uv.VERSION == locked[1] == defaults["uv_python_uv_version"]
    assert {arch: checksum for arch, (_, checksum) in get_uv.ARCHIVES.items()} == defaults[
        "uv_python_uv_archive_checksums"
    ]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: "/".join(path.parts[-2:]))
def test_a_lock_has_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    for requirement in re.split(r"\n(?=[A-Za-z])", text.strip()):
        if not requirement.startswith("#"):
            assert "--hash=sha256:" in requirement, requirement.splitlines()[0]


@pytest.mark.parametrize("channel", ["seed", "cu128", "cu13"])
def test_every_channel_keeps_the_guides_ranges_and_the_three_bounds(channel: str) -> None:
    pins = dict(
        re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / f"files/environments/{channel}/core.txt").read_text(), re.MULTILINE)
    )

    def version(name: str) -> tuple[int, ...]:
        return tuple(int(part) for part in pins[name].split("+")[0].split(".")[:2])

    assert (1, 26) <= version("numpy") < (2, 0)
    assert version("transformers") < (4, 52)
    assert version("pyarrow") < (25, 0)
    assert version("filelock") >= (3, 24)
    assert version("accelerate") < (1, 0)
