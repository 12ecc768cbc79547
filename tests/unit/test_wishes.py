"""preflight reads every role's wishes before that role starts; its literals must be that role's defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import WISHES

ROOT = Path(__file__).resolve().parents[2]
EXPRESSIONS: dict[str, str] = yaml.safe_load((ROOT / "roles/preflight/vars/main.yml").read_text())["__preflight_wishes"]
ROLES = sorted(path.parent.parent.name for path in ROOT.glob("roles/*/defaults/main.yml"))

Wish = tuple[list[str], Any]


def parse(expression: str) -> Wish:
    """Return the variables that ``{{ a | default(b | default(literal) ~ 'end') }}`` tries, and the literal."""
    inner = expression.removeprefix("{{ ").removesuffix(" }}")
    variables = []
    while found := re.fullmatch(r"(\w+) \| default\((.*)\)( ~ '.*')?", inner):
        variables.append(found.group(1))
        inner = found.group(2) + (found.group(3) or "")
    literal, _joined, end = inner.partition(" ~ ")
    value = yaml.safe_load(literal)
    return variables, value + yaml.safe_load(end) if end else value


def owner(variable: str) -> str | None:
    """Return the role whose variable it is; none yet for a role that is not there, none ever for the collection's."""
    return next((role for role in ROLES if variable.startswith(f"{role}_")), None)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_literal_is_the_owners_default(name: str) -> None:
    variables, literal = parse(EXPRESSIONS[name])
    role = owner(variables[0])
    if role is None:
        pytest.skip(f"{variables[0]} belongs to no role here")
    defaults = yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text())
    default = defaults[variables[0]]
    own = re.fullmatch(r"\{\{ (\w+) \}\}(.+)", str(default))
    if own:  # follows another variable of the same role
        assert (variables[1:], literal) == ([own.group(1)], defaults[own.group(1)] + own.group(2))
    elif isinstance(default, str) and default.startswith("{{"):
        assert parse(default) == (variables[1:], literal)
    else:
        assert (default, variables[1:]) == (literal, [])


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_plan_knows_the_wish_by_the_same_variable_and_default(name: str) -> None:
    variables, literal = parse(EXPRESSIONS[name])
    assert variables
    known, default = WISHES[name]
    assert known in variables
    assert default == literal


def test_every_wish_of_the_plan_is_asked_for() -> None:
    assert set(EXPRESSIONS) == set(WISHES)


def test_parse() -> None:
    assert parse("{{ a | default(b | default('/x')) }}") == (["a", "b"], "/x")
    assert parse("{{ a | default(b | default('/x') ~ '/y') }}") == (["a", "b"], "/x/y")
    assert parse("{{ a | default([]) }}") == (["a"], [])
    assert parse("{{ a | default(false) }}") == (["a"], False)
