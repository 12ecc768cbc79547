# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One text for a bug report, without secrets: the controller, each host, and the end of the last log."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.release import __version__ as ansible_version
from ansible_collections.gpufleet.host.plugins.module_utils.redact import (
    HIDDEN,
    hide_addresses,
    hide_names,
    is_secret_name,
    redact,
    redact_data,
)

_LOG_LINES = 400
_LOG_BYTES = 256 * 1024
# What is shorter would blot out half of the text.
_SHORTEST_SECRET = 6
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")

INTRODUCTION = """\
# gpufleet.host doctor, {time}

For a bug report. What looks like a secret reads {hidden}; names of hosts and users are {names}.
Look it over before you paste it.
"""


def bundle(
    hosts: Mapping[str, Any],
    time: str,
    collection: str,
    log_path: str = "",
    hide: bool = False,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return the text. Each host has some of `facts`, `plan`, `record`, `trouble`, `address` and `secrets`."""
    environment = os.environ if environment is None else environment
    said = "hidden" if hide else "as they are (doctor_hide_names=true hides them)"
    parts = [INTRODUCTION.format(time=time, hidden=HIDDEN, names=said), *_controller(collection, hosts)]
    for name, host in hosts.items():
        parts += _host(str(name), host if isinstance(host, Mapping) else {})
    parts += _log(log_path)
    text = _CONTROLS.sub("?", "\n".join(parts)) + "\n"
    # By value what is known to be secret, then all that looks like one.
    shown: str = redact(_without(text, [*_secrets_of(environment), *_secrets_of_hosts(hosts)]))
    if hide:
        names, users = _names(hosts)
        shown = hide_addresses(hide_names(hide_names(shown, names, "host"), users, "user"))
    return shown


def _controller(collection: str, hosts: Mapping[str, Any]) -> Iterator[str]:
    yield "## Controller\n"
    yield f"collection {collection}, ansible-core {ansible_version}, Python {platform.python_version()}"
    yield f"{platform.platform()}, {len(hosts)} host{'' if len(hosts) == 1 else 's'} asked\n"


def _host(name: str, host: Mapping[str, Any]) -> Iterator[str]:
    yield f"## Host {name}\n"
    if host.get("trouble"):
        yield f"It could not be looked at: {host['trouble']}\n"
    plan = host.get("plan")
    if isinstance(plan, Mapping) and plan.get("summary"):
        yield _block("\n".join(str(line) for line in plan["summary"]))
        plan = {what: value for what, value in plan.items() if what != "summary"}
    for title, value in (("Last record", host.get("record")), ("Plan", plan), ("Facts", host.get("facts"))):
        yield f"### {title}\n"
        yield _block(json.dumps(redact_data(value), indent=1, ensure_ascii=False)) if value else "none\n"


def _log(path: str) -> Iterator[str]:
    yield "## End of the last log\n"
    if not path:
        yield "none was kept: set log_path in ansible.cfg, or use ./run site, which keeps one\n"
        return
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        yield f"{path} cannot be read ({error.strerror})\n"
        return
    lines = _COLOURS.sub("", text).splitlines()
    yield _block("\n".join(line[:2000] for line in lines[-_LOG_LINES:]) or "empty")


def _block(text: str) -> str:
    """Return a block for Markdown that nothing in the text can end."""
    fence = "~" * max(3, 1 + max((len(run) for run in re.findall(r"~+", text)), default=0))
    return f"{fence}\n{text}\n{fence}\n"


def _without(text: str, secrets: Iterable[str]) -> str:
    known = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
    # As JSON writes them too: a quote in a password comes with a backslash.
    written = {form for secret in known for form in (secret, json.dumps(secret)[1:-1])}
    for secret in sorted(written, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets_of(environment: Mapping[str, str]) -> list[str]:
    return [value for name, value in environment.items() if is_secret_name(name) and not Path(value).exists()]


def _secrets_of_hosts(hosts: Mapping[str, Any]) -> list[str]:
    found = [host.get("secrets") for host in hosts.values() if isinstance(host, Mapping)]
    return [str(secret) for some in found for secret in some or [] if secret]


def _names(hosts: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return all names of hosts, and those of people; root is nobody's name."""
    machines, people = [socket.gethostname(), socket.getfqdn(), *map(str, hosts)], [getpass.getuser()]
    for host in hosts.values():
        found = host if isinstance(host, Mapping) else {}
        facts = found.get("facts") or {}
        machines += [str(found.get("address") or ""), str((facts.get("system") or {}).get("hostname") or "")]
        people += list(facts.get("users") or [])
        people += [str(process.get("user") or "") for process in facts.get("gpu_processes") or []]
    machines += [name.partition(".")[0] for name in machines]
    return [name for name in machines if name not in ("", "localhost")], [name for name in people if name != "root"]
