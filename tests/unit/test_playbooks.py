"""site and uninstall name the same roles, in opposite order; each of them is taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def play(name: str) -> dict[str, Any]:
    (found,) = yaml.safe_load((ROOT / "playbooks" / name).read_text())
    assert isinstance(found, dict)
    return found


def roles(name: str) -> list[str]:
    """Return the roles in order, without the steps by which a run holds the host."""
    (whole,) = play(name)["tasks"]
    imported = [task["ansible.builtin.import_role"] for task in whole["block"] if "ansible.builtin.import_role" in task]
    return [role["name"].rpartition(".")[2] for role in imported if "tasks_from" not in role]


@pytest.mark.parametrize("name", ["site.yml", "uninstall.yml", "upgrade.yml"])
def test_a_host_that_is_held_is_always_given_back(name: str) -> None:
    text = (ROOT / "playbooks" / name).read_text()
    assert text.count("tasks_from: hold.yml") == text.count("tasks_from: give_back.yml") == 1
    (always,) = [task["always"] for task in play(name)["tasks"] if "always" in task]
    assert "give_back.yml" in str(always)


def test_uninstall_takes_the_roles_of_site_the_last_one_first() -> None:
    there = [role for role in roles("site.yml") if role != "preflight"]
    assert roles("uninstall.yml") == there[::-1]


def test_uninstall_wishes_each_of_its_roles_away() -> None:
    wished = {name: value for name, value in play("uninstall.yml")["vars"].items() if name.endswith("_state")}
    assert wished == {f"{role}_state": "absent" for role in roles("uninstall.yml")}


def test_every_role_is_in_site() -> None:
    assert set(roles("site.yml")) == {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()}
