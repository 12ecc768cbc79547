"""site and uninstall name the same roles, in opposite order; each of them is taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


def play(name: str) -> dict[str, Any]:
    (found,) = yaml.safe_load((ROOT / "playbooks" / name).read_text())
    assert isinstance(found, dict)
    return found


def roles(name: str) -> list[str]:
    return [role["role"].rpartition(".")[2] for role in play(name)["roles"]]


def test_uninstall_takes_the_roles_of_site_the_last_one_first() -> None:
    there = [role for role in roles("site.yml") if role != "preflight"]
    assert roles("uninstall.yml") == there[::-1]


def test_uninstall_wishes_each_of_its_roles_away() -> None:
    wished = {name: value for name, value in play("uninstall.yml")["vars"].items() if name.endswith("_state")}
    assert wished == {f"{role}_state": "absent" for role in roles("uninstall.yml")}


def test_every_role_is_in_site() -> None:
    assert set(roles("site.yml")) == {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()}
