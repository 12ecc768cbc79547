"""What shape each fact has: an old look, a damaged cache or a lie must end in a sentence, never in a traceback.

A fact of another shape is made unknown and named. Text of the host is made printable, as it is shown on the
controller's terminal.
"""

from __future__ import annotations

import math
from typing import Any

# Scalars, each of which may be unknown (None). A count is never negative.
TEXT, COUNT, NUMBER, FLAG = "text", "count", "number", "flag"
# In a mapping: the shape of every value whose key is not named.
OTHERS = "*"
# Before a key that an older look did not have: it stays away, or is unknown then.
_AWAY, _UNKNOWN = "?", "~"

Shape = Any

_GPU = {
    **dict.fromkeys(("pci_address", "device_id", "name", "architecture", "compute_capability", "uuid"), TEXT),
    "kernel_driver": TEXT,
    "mig": FLAG,
    "?vgpu": FLAG,
    "?display": FLAG,
}
_PLACE = {
    "kind": TEXT,
    **dict.fromkeys(("~mount", "~filesystem", "?ancestor", "?ancestor_kind"), TEXT),
    **dict.fromkeys(("~acl", "?read_only", "?noexec"), FLAG),
    "~free_bytes": COUNT,
}
_USER = {
    "?uid": COUNT,
    **dict.fromkeys(("?group", "?home"), TEXT),
    "?home_exists": FLAG,
    "?home_links": {OTHERS: TEXT},
}
FACTS: Shape = {
    "system": {
        **dict.fromkeys(("distribution", "version_id", "pretty_name", "os_family", "architecture"), TEXT),
        **dict.fromkeys(("kernel", "kernel_newest", "service_manager", "virtualization"), TEXT),
        "~codename": TEXT,
        "kernels_installed": [TEXT],
        **{key: [TEXT] for key in ("?kernel_packages", "?headers", "?packages_broken")},
        "?archive": {"uri": TEXT, "suite": TEXT, "components": [TEXT], "signed_by": TEXT, "": None},
        **dict.fromkeys(("container", "wsl", "?jetson", "?display"), FLAG),
    },
    "cpu": {"vcpus": COUNT, "cores": COUNT, "quota_cpus": NUMBER},
    "memory_bytes": COUNT,
    "gpus": [_GPU],
    "nvswitches": [{"pci_address": TEXT, "device_id": TEXT}],
    "driver": {
        **dict.fromkeys(("loaded", "flavour", "user_space", "?origin"), TEXT),
        **dict.fromkeys(("nouveau", "?ours"), FLAG),
        "on_disk": {OTHERS: TEXT},
        "?on_disk_flavour": {OTHERS: TEXT},
        "?packages": {OTHERS: TEXT},
        **{key: [TEXT] for key in ("?held", "?device_nodes")},
    },
    "secure_boot": FLAG,
    "?mok": {"certificate": TEXT, "enrolled": FLAG, "pending": FLAG},
    "gpu_processes": [{"pid": COUNT, "name": TEXT, "uid": COUNT, "?user": TEXT, "?container": TEXT}],
    "engines": {"docker": TEXT, "podman": TEXT, "containerd": TEXT},
    "containers": {
        "packages": {OTHERS: TEXT},
        "snap": FLAG,
        "docker": {"data_root": TEXT, "data_used": FLAG, "swarm": FLAG, "cdi": FLAG, "flags": [TEXT]},
        "containerd": {"configured": FLAG, "version": COUNT, "imports": [TEXT], "systemd_cgroup": FLAG},
        "toolkit": {"mode": TEXT, "no_cgroups": FLAG},
        "cdi_specs": [TEXT],
    },
    "uv": {"version": TEXT},
    "venv": {"path": TEXT, "python": TEXT, "torch": TEXT, "?incomplete": [TEXT], "writable_by_others": FLAG},
    "paths": {OTHERS: _PLACE},
    "users": {OTHERS: {**_USER, "": None}},
    "?groups": {OTHERS: {"?gid": COUNT, "": None}},
    "~units": {OTHERS: {"enabled": TEXT, "active": TEXT}},
    "?addresses": {OTHERS: {"status": COUNT, "error": TEXT}},
    "reboot": {"reasons": [TEXT]},
    "?held": FLAG,
    "time": TEXT,
}


def sound_facts(facts: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the facts with everything in its shape, and the names of those that were not."""
    wrong: list[str] = []
    sound: dict[str, Any] = _sound(facts, FACTS, "", wrong)
    return sound, wrong


def _sound(value: Any, shape: Shape, name: str, wrong: list[str]) -> Any:
    if isinstance(shape, dict):
        return _mapping(value, shape, name, wrong)
    if isinstance(shape, list):
        if not isinstance(value, (list, tuple)):
            wrong.append(name)
            return []
        found = [_sound(item, shape[0], f"{name}[{index}]", wrong) for index, item in enumerate(value)]
        if None in found:  # no list has an unknown item
            wrong.append(name)
        return [item for item in found if item is not None]
    if value is None:
        return None
    if isinstance(value, str) and shape == TEXT:
        return "".join(character if character.isprintable() else "?" for character in value)
    if not _is(shape, value):
        wrong.append(name)
        return None
    return value


def _is(shape: Shape, value: Any) -> bool:
    if shape == FLAG or isinstance(value, bool):
        return shape == FLAG and isinstance(value, bool)
    if shape == COUNT:
        return isinstance(value, int) and value >= 0
    return shape == NUMBER and isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _mapping(value: Any, shape: dict[str, Shape], name: str, wrong: list[str]) -> Any:
    if value is None and "" in shape:  # the whole may be unknown
        return None
    if not isinstance(value, dict):
        wrong.append(name or "everything")
        value = {}
        if "" in shape:
            return None
    found = dict(value)
    for key, inner in shape.items():
        plain = key.lstrip(_AWAY + _UNKNOWN)
        if key in ("", OTHERS) or (key.startswith(_AWAY) and plain not in value):
            continue
        if plain not in value and not key.startswith(_UNKNOWN):
            wrong.append(_joined(name, plain))
        found[plain] = _sound(value.get(plain), inner, _joined(name, plain), wrong if plain in value else [])
    if OTHERS in shape:
        found = {str(key): _sound(item, shape[OTHERS], _joined(name, str(key)), wrong) for key, item in found.items()}
    return found


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
