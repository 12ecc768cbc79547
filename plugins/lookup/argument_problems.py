# Copyright: the gpufleet.host contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Lookup plugin: what is wrong with the variables of all roles, before the first of them starts."""

from __future__ import annotations

DOCUMENTATION = r"""
name: argument_problems
short_description: List what is wrong with the roles' variables, a sentence each
version_added: 0.1.0
description:
  - Compares every variable that is set with the C(argument_specs) of the collection's role that it belongs to.
  - Ansible does so too, but only when a role starts, which is after the roles before it have changed the host.
  - The types of variables that the host plan knows are left to it, which says all of its sentences at once.
options:
  undefined:
    description: Tell only which variables name others that are not there, and so have no value.
    type: bool
    default: false
  _terms:
    description: Names of roles; all of the collection where there are none.
    type: list
    elements: str
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Refuse what no role can take
  ansible.builtin.fail:
    msg: "{{ problems | join('\n') }}"
  when: problems | length > 0
  vars:
    problems: "{{ query('gpufleet.host.argument_problems') }}"
"""

RETURN = r"""
_raw:
  description: One sentence for each variable.
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.lookup import LookupBase
from ansible_collections.gpufleet.host.plugins.module_utils._wish_shapes import one_line, shown
from ansible_collections.gpufleet.host.plugins.module_utils.env_resolve import without_password
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import WISHES

_ROLES = Path(__file__).resolve().parents[2] / "roles"
_PLANNED = {variable for variable, _default in WISHES.values()} | {"ml_cache_users", "ml_cache_group"}
_KNOWN = ("type", "elements", "choices", "options", "required", "default", "no_log")
# type -> what it is, and how to write it
_WORDS = {
    "str": ("text", "write one line of text, or leave it out"),
    "path": ("path", "write one path, or leave it out"),
    "bool": ("boolean", "set it to true or false"),
    "int": ("whole number", "set it to a number"),
    "list": ("list that this variable can take", "write it as the role's README.md shows"),
    "dict": ("mapping", "write NAME: value, a line each"),
}


def options_of(role: str) -> dict[str, Any]:
    """Return the options of a role's main entry, as the role itself states them."""
    path = _ROLES / role / "meta" / "argument_specs.yml"
    specs = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
    options: dict[str, Any] = specs["main"].get("options") or {}
    return options


def plain(option: dict[str, Any]) -> dict[str, Any]:
    """Return an option without its prose, as the validator takes it."""
    found = {key: value for key, value in option.items() if key in _KNOWN}
    if "options" in found:
        found["options"] = {name: plain(inner) for name, inner in found["options"].items()}
    return found


def is_secret(option: dict[str, Any]) -> bool:
    """Whether a value may hold a key, so that no sentence shows it."""
    return bool(option.get("no_log")) or any(is_secret(inner) for inner in (option.get("options") or {}).values())


def problem(name: str, option: dict[str, Any], value: Any) -> str | None:
    """Return the sentence about one variable, None where it is right."""
    spec = {key: item for key, item in plain(option).items() if key != "default"}
    # Ansible makes text of a list or a mapping, which no role means.
    is_text = option["type"] not in ("str", "path") or not isinstance(value, (list, dict))
    if value is not None and is_text and not ArgumentSpecValidator({name: spec}).validate({name: value}).error_messages:
        return None
    wished = f"{name} (not shown)" if is_secret(option) else f"{name}={shown(without_password(str(value)))}"
    word, remedy = _WORDS.get(option["type"], ("value", "write it as the role's README.md shows"))
    found = f"Found something that is no {word}"
    if "choices" in option and isinstance(value, (str, list)):
        found, remedy = "Found no such choice", f"set it to one of {', '.join(map(str, option['choices']))}"
    sentence: str = one_line(f"{found}; wished is {wished}; {remedy}.")
    return sentence


class LookupModule(LookupBase):  # type: ignore[misc]
    """What Ansible loads."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return one sentence for each variable that its role cannot take."""
        self.set_options(var_options=variables, direct=kwargs)
        there = variables or {}
        roles = terms or sorted(path.name for path in _ROLES.iterdir() if (path / "meta/argument_specs.yml").exists())
        options = {name: option for role in roles for name, option in options_of(role).items() if name in there}
        found = [self._problem(name, option, there[name]) for name, option in options.items()]
        return [sentence for sentence in found if sentence]

    def _problem(self, name: str, option: dict[str, Any], value: Any) -> str | None:
        only_undefined = self.get_option("undefined")
        try:
            known = self._templar.template(value)
        except AnsibleError as error:
            said = f"Found no value of {name} ({shown(error.message)}); set it, or the variables that it names."
            return said if only_undefined else None
        return None if only_undefined or name in _PLANNED else problem(name, option, known)
