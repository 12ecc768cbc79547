# Copyright: the gpufleet.host contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One resolved environment, written in the language of each program that reads it. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils.env_catalog import BY_NAME, SCOPES
from ansible_collections.gpufleet.host.plugins.module_utils.env_resolve import (
    GROUP_NAME,
    UNSAFE,
    WishError,
    endpoint_problem,
)

HEADER = "# Managed by gpufleet.host: changes here are lost on the next run."

# uv refuses to run for every user when its system file holds a key it does not know.
UV_KEYS = frozenset(
    {
        "cache-dir",
        "compile-bytecode",
        "concurrent-builds",
        "concurrent-downloads",
        "concurrent-installs",
        "exclude-newer",
        "http-proxy",
        "https-proxy",
        "index",
        "link-mode",
        "no-proxy",
        "offline",
        "python-downloads",
        "python-downloads-json-url",
        "python-install-mirror",
        "python-preference",
        "system-certs",
        "torch-backend",
    }
)
UV_BOOLEANS = frozenset({"compile-bytecode", "offline", "system-certs"})
UV_NUMBERS = frozenset({"concurrent-builds", "concurrent-downloads", "concurrent-installs"})
UV_ADDRESSES = frozenset({"python-downloads-json-url", "python-install-mirror"})
UV_INDEX_KEYS = frozenset({"name", "url", "default", "explicit", "format", "authenticate"})

# Is this shell's user a member, and not root? Read from /proc and /etc/group by the shell itself: no process is
# started at each login. A group that only a directory service knows is asked for by id.
MEMBER = """\
__gpufleet_gid='' __gpufleet_member='' __gpufleet_root=''
while IFS=: read -r __gpufleet_name __gpufleet_rest; do
  if [ "$__gpufleet_name" = '%(group)s' ]; then
    __gpufleet_rest=${__gpufleet_rest#*:}
    __gpufleet_gid=${__gpufleet_rest%%%%:*}
  fi
done </etc/group
if [ "$__gpufleet_gid" ] && [ -r /proc/self/status ]; then
  while IFS= read -r __gpufleet_rest; do
    case $__gpufleet_rest in
      Uid:*[!0-9]0[!0-9]*) __gpufleet_root=1 ;;
      Gid:*[!0-9]"$__gpufleet_gid"[!0-9]*) __gpufleet_member=1 ;;
      Groups:*[!0-9]"$__gpufleet_gid "*) __gpufleet_member=1 ;;
    esac
  done </proc/self/status
elif [ "$(id -u 2>/dev/null)" != 0 ]; then
  case " $(id -Gn 2>/dev/null) " in *' %(group)s '*) __gpufleet_member=1 ;; esac
fi
"""
UNSET = "unset __gpufleet_gid __gpufleet_member __gpufleet_root __gpufleet_name __gpufleet_rest"


def profile_sh(resolved: Mapping[str, Any], group: str, path: str = "") -> str:
    """Write ``/etc/profile.d/*.sh``: POSIX sh, silent, safe under ``set -eu``, for members of ``group`` and not root.

    A variable that the user has set, even to nothing, stays. ``path`` is put at the front of PATH when given.
    """
    lines = [f"# Variables for members of the group {_group(group)}, never for root. A value that is set already wins."]
    lines += ["# `gpufleet-env show` says why each has its value.", MEMBER % {"group": group}]
    lines.append('if [ "$__gpufleet_member" ] && [ ! "$__gpufleet_root" ]; then')
    for name, value in _scope(resolved, "login"):
        lines.append(f'  [ "${{{name}+set}}" ] || {name}={_sh(value)}')
        lines.append(f"  export {name}")
    if path:
        checked = _sh(_plain("env_profile_venv_path", path))
        lines.append(f'  case ":$PATH:" in *:{checked}:*) ;; *) PATH={checked}":$PATH" ;; esac')
        lines.append("  export PATH")
    lines += ["fi", UNSET]
    return "\n".join([HEADER, *lines, ""])


def user_generator(resolved: Mapping[str, Any], group: str) -> str:
    """Write a systemd user environment generator: what members' user managers, and so their user units, get.

    ``/etc/environment.d`` would reach every user's manager, root's too; a generator can ask who it runs for.
    """
    lines = ["#!/bin/sh", HEADER]
    lines.append(f"# Run by each user's systemd manager; prints variables for members of the group {_group(group)}.")
    lines.append(MEMBER % {"group": group})
    lines.append('[ "$__gpufleet_member" ] && [ ! "$__gpufleet_root" ] || exit 0')
    for name, value in _scope(resolved, "user_systemd"):
        lines.append(f"""[ "${{{name}+set}}" ] || printf '%s\\n' {name}={_sh(value)}""")
    return "\n".join([*lines, "exit 0", ""])


def unit_file(resolved: Mapping[str, Any]) -> str:
    """Write an ``EnvironmentFile=`` for system units: ``KEY=VALUE``, nothing is expanded."""
    lines = [f"{name}={_plain(name, value)}" for name, value in _scope(resolved, "unit")]
    return "\n".join([HEADER, "# For units: EnvironmentFile=-/etc/gpufleet/unit.env", *lines, ""])


def docker_file(resolved: Mapping[str, Any]) -> str:
    """Write a docker ``--env-file``: ``KEY=VALUE`` without quotes, which docker would keep as part of the value."""
    lines = [f"{name}={_plain(name, value)}" for name, value in _scope(resolved, "container")]
    return "\n".join([HEADER, *lines, ""])


def uv_toml(
    resolved: Mapping[str, Any], settings: Mapping[str, Any] | None = None, allow_insecure_endpoints: bool = False
) -> str:
    """Write ``/etc/uv/uv.toml`` from the scope ``uv_toml`` and further ``settings``; empty settings are left out.

    ``settings`` has uv's own key names (``_`` counts as ``-``). ``index`` is an address, which replaces the default
    index, or a list of tables. Raises WishError for a key that uv does not accept in its system file.
    """
    keys: dict[str, Any] = {BY_NAME[name].uv_key or name: value for name, value in _scope(resolved, "uv_toml")}
    for key, value in (settings or {}).items():
        if value is not None and value not in ("", []):
            keys[str(key).replace("_", "-")] = value
    index = keys.pop("index", [])
    lines = [f"{key} = {_uv_value(key, keys[key], allow_insecure_endpoints)}" for key in sorted(keys)]
    for table in [{"url": index, "default": True}] if isinstance(index, str) else index:
        lines += ["", "[[index]]", *_uv_index(table, allow_insecure_endpoints)]
    return "\n".join([HEADER, *lines, ""])


def env_json(resolved: Mapping[str, Any], group: str = "", path: str = "") -> str:
    """Write ``/etc/gpufleet/env.json``: every value by scope, and for each variable why, deviation and who set it.

    ``path`` is what members have at the front of PATH.
    """
    document = {
        "schema": 1,
        "profiles": list(resolved["profiles"]),
        "group": group,
        "path": path,
        "scopes": {scope: dict(resolved[scope]) for scope in SCOPES},
        "profile_values": resolved["profile_values"],
        "variables": resolved["whys"],
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _scope(resolved: Mapping[str, Any], scope: str) -> list[tuple[str, str]]:
    return sorted(resolved[scope].items())


def _group(group: str) -> str:
    if not GROUP_NAME.fullmatch(group):
        raise WishError(f"env_profile_group is {group!r}, which is no name of a group; use letters and digits.")
    return group


def _plain(name: str, value: str) -> str:
    if UNSAFE.search(value):
        raise WishError(f"{name} is {value!r}; leave out newlines, quotes, backslashes and $.")
    return value


def _sh(value: str) -> str:
    """Quote for a shell; only ``$HOME`` at the beginning is expanded."""
    if value.startswith("$HOME"):
        return '"$HOME"' + (_quoted(value[len("$HOME") :]) if value != "$HOME" else "")
    return _quoted(value)


def _quoted(value: str) -> str:
    if UNSAFE.search(value):
        raise WishError(f"{value!r} has a newline, quote, backslash or $; leave it out.")
    return f"'{value}'"


def _uv_value(key: str, value: Any, insecure: bool) -> str:
    if key not in UV_KEYS:
        raise WishError(
            f"uv refuses to run with {key!r} in its system file; use one of {', '.join(sorted(UV_KEYS))}, "
            f"or the variable UV_{key.upper().replace('-', '_')}."
        )
    if key in UV_BOOLEANS:
        return "true" if str(value).lower() in ("1", "true") else "false"
    if key in UV_NUMBERS:
        return str(int(value))
    if key in UV_ADDRESSES:
        _checked_address(key, str(value), insecure)
    return json.dumps(value)


def _uv_index(table: Mapping[str, Any], insecure: bool) -> list[str]:
    unknown = sorted(set(table) - UV_INDEX_KEYS)
    if unknown or not table.get("url"):
        raise WishError(f"An index of uv needs url and may have {', '.join(sorted(UV_INDEX_KEYS))}: {table}.")
    _checked_address("The index of uv", str(table["url"]), insecure)
    return [f"{key} = {json.dumps(table[key])}" for key in sorted(table) if table[key] is not None]


def _checked_address(wish: str, value: str, insecure: bool) -> None:
    problem = endpoint_problem(wish, value, insecure)
    if problem:
        raise WishError(problem)
