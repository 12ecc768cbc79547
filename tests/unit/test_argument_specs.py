"""What a role says about its variables is what its defaults say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())


def read(role: str, path: str) -> Any:
    return yaml.safe_load((ROOT / "roles" / role / path).read_text())


@pytest.mark.parametrize("role", ROLES)
def test_options_are_the_defaults(role: str) -> None:
    options = read(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    said = {name: option["default"] for name, option in options.items() if "default" in option}
    assert said == (read(role, "defaults/main.yml") or {})
    # A variable without a default has to be required, or it would be undefined where nobody sets it.
    assert [name for name, option in options.items() if "default" not in option and not option.get("required")] == []


@pytest.mark.parametrize("role", ROLES)
def test_options_are_explained(role: str) -> None:
    main = read(role, "meta/argument_specs.yml")["argument_specs"]["main"]
    assert main["short_description"]
    assert main["description"]
    for name, option in main["options"].items():
        assert name.startswith(f"{role}_")
        assert option["type"]
        assert option["description"]
        assert option["type"] != "list" or option["elements"], name


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_complete(role: str) -> None:
    for path in ("README.md", "meta/main.yml", "defaults/main.yml", "tasks/main.yml"):
        assert (ROOT / "roles" / role / path).exists(), path
    assert (ROOT / "molecule" / role / "molecule.yml").exists()
