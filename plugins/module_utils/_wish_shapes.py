"""What shape each wish has, for Ansible looks at a role's types only when that role starts, after others' work.

A wish of another shape is refused in one sentence, and the plan goes on with the default, so that every other sentence
is said in the same run. Which values are possible is asked by who plans with them.
"""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._driver_case import as_bool
from ansible_collections.gpufleet.host.plugins.module_utils._torch_channels import GROUPS

TEXT, NAMES, ROWS, MAPPING, FLAG, BRANCH, SWITCH = "text", "names", "rows", "mapping", "flag", "branch", "switch"
# Those of another shape than text.
SHAPES: dict[str, str] = {
    "driver_branch": BRANCH,
    "driver_fabric_manager": SWITCH,
    "driver_adopt": FLAG,
    "driver_force": FLAG,
    "driver_in_container": FLAG,
    "driver_persistence": FLAG,
    "driver_repository_fingerprints": NAMES,
    "driver_module_options": MAPPING,
    "driver_mig": ROWS,
    "groups": NAMES,
    "profiles": NAMES,
    "overrides": MAPPING,
    "users": NAMES,
    "cache_projects": NAMES,
    "cache_secrets": ROWS,
    "cache_uv_trust_group": FLAG,
    "containers": FLAG,
    "engine_settings": MAPPING,
    "engine_defaults": FLAG,
    "engine_registry_mirrors": NAMES,
    "engine_force": FLAG,
    "engine_repository_fingerprints": NAMES,
    "engine_rootless_users": NAMES,
    "toolkit_engines": NAMES,
    "toolkit_without_gpu": FLAG,
    "toolkit_repository_fingerprints": NAMES,
    "dev_groups": NAMES,
    "dev_build": FLAG,
    "dev_allow_unconfined": FLAG,
    "dev_allow_sys_admin": FLAG,
    "allow_insecure_endpoints": FLAG,
    "allow_unknown_platform": FLAG,
    "offline": FLAG,
    "proxy": MAPPING,
}
_STATES = ("present", "absent")
# The words that nobody else asks for.
CHOICES: dict[str, tuple[str, ...]] = {
    "nvidia_driver_state": _STATES,
    "uv_python_state": _STATES,
    "env_profile_state": _STATES,
    "ml_cache_state": _STATES,
    "docker_engine_state": _STATES,
    "container_toolkit_state": _STATES,
    "dev_container_state": _STATES,
    "engine_source": ("auto", "docker", "distribution", "existing"),
    "toolkit_mode": ("auto", "legacy"),
    "toolkit_engines": ("docker", "podman", "containerd", "crio"),
    "dev_groups": tuple(GROUPS),
    "link_mode": ("clone", "copy", "hardlink"),
}
# Their values never get into a sentence.
SECRET_WISHES = ("cache_secrets",)
# Longer text is no name, path or address; the kernel takes no longer path either.
MAX_LENGTH = 1024
# How much of a value a sentence shows.
_SHOWN = 160
_REMEDIES = {
    TEXT: ("text", "write one line of text, or leave it out"),
    NAMES: ("list of names", "write a list, like [name, name]"),
    ROWS: ("list of mappings", "write a list, like [{name: value}]"),
    MAPPING: ("mapping", "write NAME: value, a line each"),
    FLAG: ("boolean", "set it to true or false"),
    BRANCH: ("branch", "set it to auto or a number such as 580"),
    SWITCH: ("switch", "set it to auto, true or false"),
}


def shape_of(wish: str) -> str:
    """Return the shape that a wish must have."""
    return SHAPES.get(wish, TEXT)


def fault(wish: str, value: Any) -> tuple[str, str] | None:
    """Return what is wrong with a wish's shape and the remedy, None where it is right."""
    shape = shape_of(wish)
    word, remedy = _REMEDIES[shape]
    if not _has_shape(shape, value):
        return f"Found something that is no {word}", remedy
    for text in _texts(value):
        if len(text) > MAX_LENGTH:
            return f"Found a text of {len(text)} characters", f"write at most {MAX_LENGTH}"
        if not text.isprintable():
            return "Found a line break or another control character", "take it out"
    items = value if shape == NAMES else (value,)
    if wish in CHOICES and not all(item in CHOICES[wish] for item in items):
        return "Found no such choice", f"set it to {' or '.join(CHOICES[wish])}"
    return None


def sound(wish: str, value: Any) -> Any:
    """Return a wish of the right shape as the plan reads it: text may have come for a boolean, a number for text."""
    shape = shape_of(wish)
    return bool(as_bool(value)) if shape == FLAG else str(value) if shape == TEXT else value


def shown(value: Any) -> str:
    """Return a value as a sentence has it: one printable line, not too long."""
    text = "".join(character if character.isprintable() else "?" for character in str(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _has_shape(shape: str, value: Any) -> bool:
    if shape == FLAG:
        return isinstance(value, (bool, str, int)) and as_bool(value) is not None
    if shape == MAPPING:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if shape in (TEXT, BRANCH):
        return isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if shape == SWITCH:
        return isinstance(value, (str, bool))
    kind = str if shape == NAMES else dict
    return isinstance(value, (list, tuple)) and all(isinstance(item, kind) for item in value)


def _texts(value: Any) -> list[str]:
    """Return every text in a wish, but for the contents of mappings: a secret may be long and have lines."""
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, (list, tuple)) else []


def one_line(sentence: str) -> str:
    """Return a sentence as one printable line, whatever names of the host or the user stand in it."""
    printable = "".join(character if character.isprintable() else "?" for character in sentence)
    return re.sub(r"\S{200,}", lambda match: f"{match.group()[:150]}...", printable)
