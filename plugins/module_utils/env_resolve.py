# Copyright: the gpufleet.host contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From plan, profiles and overrides to the value of every variable in every scope. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils.env_catalog import (
    ALIASES,
    BY_NAME,
    CATALOG,
    EVERYWHERE,
    PROFILES,
    SCOPES,
    Value,
    Variable,
    profile_value,
)

WISH_PROFILES = "env_profile_profiles"
WISH_OVERRIDES = "env_profile_overrides"
WISH_INSECURE = "gpufleet_allow_insecure_endpoints"

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PLACEHOLDER = re.compile(r"<([a-z_]+)>")
# The shell and systemd own these; a wrong value locks people out.
RESERVED = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "IFS", "ENV", "BASH_ENV", "LD_PRELOAD"})
SECRET = re.compile(r"(^|_)(TOKEN|PASSWORD|PASSWD|SECRET|KEY|CREDENTIALS)$")
# A character that bash, systemd, docker and compose do not read alike, so no file could hold it for all of them.
UNSAFE = re.compile(r"[\x00-\x1f\x7f\"'`\\$]")
PASSWORD = re.compile(r"(?<=://)[^/@]*@")
INSECURE = re.compile(r"\bhttp://", re.IGNORECASE)
PROXY = re.compile(r"(http|https|all|no|ftp)_proxy", re.IGNORECASE)

OPTIONS: Mapping[str, Any] = {
    "cache_root": "/srv/ml",
    "container_home": "/home/vscode",
    "container_cpus": None,
    "ca_bundle": "",
    "allow_insecure_endpoints": False,
    "group": "ml",
    "nofile": 65536,
    "venv_path": "/opt/uv/venv",
    "config_path": "/etc/gpufleet",
}
# The kernel's fs.nr_open. A limit above it cannot be set, and pam_limits then refuses every login.
NOFILE_MAX = 1048576
GROUP_NAME = re.compile(r"[a-z_][a-z0-9_.-]*")


class WishError(ValueError):
    """The wishes contradict each other or cannot be written down. The text is for the user."""


def resolve(
    plan: Mapping[str, Any],
    profiles: Sequence[str] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Give ``{scope: {NAME: value}}`` for every scope, with ``profiles``, and ``whys`` for every variable.

    ``profile_values`` has what each profile alone would set in a login shell, for ``gpufleet-env run --profile``.

    Later rules beat earlier ones: catalogue default, profile, override. Raises WishError with one
    sentence for each thing that is wrong.
    """
    names = profile_names(profiles)
    found = problems(plan, names, overrides, options)
    if found:
        raise WishError("\n".join(found))
    wishes = _with_followers(overrides or {})
    settings = {**OPTIONS, **(options or {})}
    result: dict[str, Any] = {scope: {} for scope in SCOPES}
    result["profiles"] = names
    result["whys"] = {}
    result["profile_values"] = {profile: {} for profile in PROFILES}
    for variable in _variables(wishes):
        chosen = _choose(variable, names, wishes)
        for scope in variable.scopes:
            value = _value_in(scope, variable, chosen, wishes, plan, settings)
            if value is not None:
                result[scope][variable.name] = value
        for profile in PROFILES:
            sets, value = profile_value(variable, profile)
            if sets and "login" in variable.scopes:
                value = None if value is None else _filled("login", value, plan, settings)
                result["profile_values"][profile][variable.name] = value
        result["whys"][variable.name] = {
            "why": variable.why,
            "from": chosen[1],
            "seed": variable.seed,
            "deviation": variable.deviation,
        }
    return result


def problems(
    plan: Mapping[str, Any],
    profiles: Sequence[str] | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """List what is wrong with the wishes, one sentence each, every one with its variable and a remedy."""
    names = profile_names(profiles)
    wishes = overrides or {}
    insecure = bool({**OPTIONS, **(options or {})}["allow_insecure_endpoints"])
    found = _unknown_profiles(names) + _conflicts(names, wishes)
    for name, wish in wishes.items():
        found += _override_problems(str(name), wish, insecure)
    found += _option_problems({**OPTIONS, **(options or {})})
    resources = plan.get("resources") or {}
    if any(not isinstance(resources.get(key), int) for key in ("threads", "cores", "dataloader_workers")):
        found.append(
            "The plan has no resources (threads, cores, dataloader_workers) to derive thread counts from; "
            "run the role preflight first."
        )
    return found


def profile_names(profiles: Sequence[str] | str | None) -> list[str]:
    """List the profiles in order, each once; ``training`` when none is wished."""
    if profiles is None:
        return ["training"]
    if isinstance(profiles, str):
        profiles = profiles.split(",")
    return list(dict.fromkeys(str(name).strip() for name in profiles))


def endpoint_problem(wish: str, value: str, insecure: bool) -> str | None:
    """Say what is wrong with an address that a program will fetch from, or nothing."""
    if insecure or not INSECURE.search(value):
        return None
    return (
        f"{wish} is {value!r}, which is not encrypted; use an https:// or file:// address, "
        f"or set {WISH_INSECURE}: true if this network is trusted."
    )


def without_password(text: str) -> str:
    """Return an address as it may be printed."""
    return PASSWORD.sub("***@", text)


def _unknown_profiles(names: Sequence[str]) -> list[str]:
    return [
        f"{WISH_PROFILES} names {name!r}, which is no profile; use one or more of {', '.join(PROFILES)}."
        for name in names
        if name not in PROFILES
    ]


def _conflicts(names: Sequence[str], overrides: Mapping[str, Any]) -> list[str]:
    """Name the first two profiles that disagree on a variable; an override of that variable settles it.

    The written values are compared and not the derived ones, so that a fleet does not conflict on one host only.
    """
    settled = _with_followers(overrides)
    found = []
    for variable in CATALOG:
        if variable.name in settled:
            continue
        says = [(name, *profile_value(variable, name)) for name in names]
        values = [(name, value) for name, sets, value in says if sets]
        other = next(((name, value) for name, value in values if value != values[0][1]), None)
        if other is not None:
            found.append(
                f"{WISH_PROFILES}: {values[0][0]!r} sets {variable.name} to {_shown(values[0][1])} and {other[0]!r} "
                f"to {_shown(other[1])}; drop one of the two, or settle it with {WISH_OVERRIDES}: "
                f"{{{variable.name}: ...}}."
            )
    return found


def _shown(value: Value) -> str:
    return "nothing" if value is None else repr(value)


def _override_problems(name: str, wish: Any, insecure: bool) -> list[str]:
    where = f"{WISH_OVERRIDES}.{name}"
    if not NAME.fullmatch(name):
        return [f"{WISH_OVERRIDES} has the name {name!r}, which no shell can export; use letters, digits and _."]
    if name in RESERVED:
        return [f"{where} would replace a variable that the shell owns; leave {name} out."]
    if name in ALIASES:
        return [f"{where} is another name of {ALIASES[name]}, and both at once contradict; use {ALIASES[name]}."]
    if SECRET.search(name.upper()):
        return [
            f"{where} looks like a secret, and every user can read the files it would be written to; "
            "put it into the user's own 0600 file instead (the role ml_cache does)."
        ]
    if isinstance(wish, Mapping):
        scopes = BY_NAME[name].scopes if name in BY_NAME else EVERYWHERE
        wrong = [
            f"{where} names the scope {scope!r}, which {name} does not have; use one or more of {', '.join(scopes)}."
            for scope in wish
            if scope not in scopes
        ]
        return wrong + [
            text for scope, value in wish.items() for text in _value_problems(f"{where}.{scope}", name, value, insecure)
        ]
    return _value_problems(where, name, wish, insecure)


def _value_problems(where: str, name: str, wish: Any, insecure: bool) -> list[str]:
    if wish is None:
        return []
    if not isinstance(wish, (str, int, float)):
        return [f"{where} is a {type(wish).__name__}; give text or a number, or null to leave it unset."]
    value = _text(wish)
    if PASSWORD.search(value):
        return [
            f"{where} is {without_password(value)!r}, with a name or password that every user could read; take it out "
            "and put it into the user's own netrc file or 0600 environment file (the role ml_cache does)."
        ]
    variable = BY_NAME.get(name)
    if variable is not None and variable.pattern and not re.fullmatch(variable.pattern, value):
        return [f"{where} is {value!r}; give {variable.hint}."]
    if UNSAFE.search(_without_home(value)):
        return [
            f"{where} is {value!r}; a newline, quote, backslash or $ is read differently by shells, systemd and "
            "docker, so leave it out ($HOME/ at the beginning is understood)."
        ]
    if value != value.strip():
        return [f"{where} is {value!r}; leave out the space at its ends, which systemd would drop."]
    problem = None if PROXY.fullmatch(name) else endpoint_problem(where, value, insecure)
    return [problem] if problem else []


def _option_problems(options: Mapping[str, Any]) -> list[str]:
    unknown = sorted(set(options) - set(OPTIONS))
    found = [f"env_resolve has no option {name!r}; it has {', '.join(OPTIONS)}." for name in unknown]
    for key in ("cache_root", "container_home", "ca_bundle", "venv_path", "config_path"):
        value = str(options[key] or "")
        if (value or key != "ca_bundle") and not re.fullmatch(r"/[^\s\"'`\\$:]*", value):
            found.append(
                f"env_profile_{key} is {value!r}; give an absolute path without spaces, quotes, backslashes, : and $."
            )
    if not GROUP_NAME.fullmatch(str(options["group"])):
        found.append(f"env_profile_group is {options['group']!r}, which is no name of a group; use a-z, 0-9, _ and -.")
    nofile = str(options["nofile"])
    if not nofile.isdigit() or not (nofile == "0" or 1024 <= int(nofile) <= NOFILE_MAX):
        found.append(
            f"env_profile_nofile is {nofile!r}; give 1024 to {NOFILE_MAX}, or 0 to leave the limit alone "
            "(nobody could log in with a limit that the kernel refuses)."
        )
    return found


def _with_followers(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Carry an override over to the variables that must be equal to it, unless they have one of their own."""
    result = dict(overrides)
    for variable in CATALOG:
        if variable.follows in overrides and variable.name not in result:
            result[variable.name] = overrides[variable.follows]
    return result


def _variables(overrides: Mapping[str, Any]) -> list[Variable]:
    extra = [Variable(name=str(name), why="Set by this site.") for name in overrides if name not in BY_NAME]
    return [*CATALOG, *extra]


def _choose(variable: Variable, profiles: Sequence[str], overrides: Mapping[str, Any]) -> tuple[Value, str]:
    """Give the written value and who says so."""
    if variable.name in overrides:
        return None, "override"
    for profile in profiles:
        sets, value = profile_value(variable, profile)
        if sets:
            return value, f"profile {profile}"
    return variable.default, "default"


def _value_in(
    scope: str,
    variable: Variable,
    chosen: tuple[Value, str],
    overrides: Mapping[str, Any],
    plan: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Value:
    value, source = chosen
    if scope == "container" and variable.container is not None and value is not None:
        value = variable.container
    if source == "override":
        overridden, wish = _override_in(scope, variable, overrides[variable.name])
        if overridden:
            return _home_in(scope, None if wish is None else _text(wish), options)
        value = variable.container if scope == "container" and variable.container else variable.default
    return _home_in(scope, None if value is None else _filled(scope, value, plan, options), options)


def _override_in(scope: str, variable: Variable, wish: Any) -> tuple[bool, Any]:
    """Say whether an override counts in a scope.

    A path on the host is no path in a container, which has its own mounts: there it counts only by name.
    """
    if isinstance(wish, Mapping):
        return scope in wish, wish.get(scope)
    is_path = bool(variable.default and variable.default.startswith(("<home>/", "<cache_root>/")))
    if scope == "container" and is_path and variable.scopes != ("container",) and wish is not None:
        return False, None
    return True, wish


def _filled(scope: str, value: str, plan: Mapping[str, Any], options: Mapping[str, Any]) -> Value:
    resources = plan["resources"]
    limit = options["container_cpus"] if scope == "container" else None

    def at_most(count: int) -> str:
        return str(max(1, min(count, int(limit)) if limit else count))

    known = {
        "home": "$HOME",
        "cache_root": str(options["cache_root"]).rstrip("/"),
        "ca_bundle": str(options["ca_bundle"] or ""),
        "threads": at_most(resources["threads"]),
        "cores": at_most(resources["cores"]),
        "notebook_threads": at_most(min(4, resources["cores"])),
        "dataloader_workers": at_most(resources["dataloader_workers"]),
    }
    return PLACEHOLDER.sub(lambda match: known[match.group(1)], value) or None


def _home_in(scope: str, value: Value, options: Mapping[str, Any]) -> Value:
    """Write a path in the user's home as the scope can read it.

    A system unit's EnvironmentFile expands nothing and does not know the user, so there it is left out.
    """
    if value is None or _without_home(value) == value:
        return value
    if scope == "container":
        return str(options["container_home"]).rstrip("/") + _without_home(value)
    return None if scope in ("unit", "uv_toml") else "$HOME" + _without_home(value)


def _without_home(value: str) -> str:
    return re.sub(r"^(\$HOME|\$\{HOME\})(?=/|$)", "", value)


def _text(wish: Any) -> str:
    if isinstance(wish, bool):
        return "1" if wish else "0"
    return str(wish)
