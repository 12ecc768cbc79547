"""`-e name=false` gives the text "false", which Jinja takes for true: every boolean of a role is read by `| bool`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
# What may follow a boolean: reading it as one, asking whether it is there, showing it.
READINGS = ("bool", "default", "lower")
# Keys whose text is an expression without braces.
EXPRESSIONS = ("when", "that", "changed_when", "failed_when", "until")


def booleans() -> set[str]:
    found = set()
    for role in ROLES:
        specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"]
        for spec in specs.values():
            found |= {name for name, option in spec["options"].items() if option["type"] == "bool"}
    return found


BOOLEANS = booleans()


def templates(value: Any, key: str = "") -> Iterator[str]:
    """Yield every text of a YAML file, an expression in braces."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from templates(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from templates(item, key)
    elif isinstance(value, str):
        yield f"{{{{ {value} }}}}" if key in EXPRESSIONS else value


def texts(path: Path) -> Iterator[str]:
    if path.suffix == ".j2":
        yield path.read_text()
    else:
        yield from templates(yaml.safe_load(path.read_text()))


def misread(text: str, names: set[str]) -> list[str]:
    """Return the booleans that an expression reads as they come."""
    tokens = [(kind, value) for _line, kind, value in Environment(autoescape=True).lex(text) if kind != "whitespace"]
    found = []
    for index, (kind, value) in enumerate(tokens):
        if kind == "name" and value in names:
            after = [token for _kind, token in tokens[index + 1 : index + 3]]
            if after[:1] != ["|"] or after[1] not in READINGS:
                found.append(value)
    return found


FILES = sorted(
    path
    for folder in ("roles", "playbooks")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".yml", ".j2") and path.name != "argument_specs.yml" and "environments" not in path.parts
)


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_no_boolean_is_read_as_text(path: Path) -> None:
    assert [name for text in texts(path) for name in misread(text, BOOLEANS)] == []


def test_misread() -> None:
    names = {"force"}
    assert misread("{{ [] if force else busy }}", names) == ["force"]
    assert misread("{{ [] if force | bool else busy }}", names) == []
    assert misread("set force to true", names) == []
    assert list(templates({"when": "not force", "msg": "force"})) == ["{{ not force }}", "force"]
