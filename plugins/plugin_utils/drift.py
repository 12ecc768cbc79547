# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a run in check mode found to differ, as a table: host, role and object, and since when at the latest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils.shapes import Text

_MOST = 12  # lines of one host
_WIDE = 100  # signs of one line's middle

_text = Text(300)


class Drift:
    """Collects what the callbacks see; a host and a role are names."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, list[str]]] = {}
        self._since: dict[str, str] = {}
        self._lost: dict[str, str] = {}

    def looked(self, host: str, record: Any) -> None:
        """Note the host's last record, or that it has none."""
        time = record.get("time") if isinstance(record, Mapping) else None
        self._since[host] = _text.clean(time) or ("an unreadable record" if record is not None else "")

    def differs(self, host: str, role: str, objects: Iterable[str]) -> None:
        """Note what would be changed."""
        known = self._objects.setdefault(host, {}).setdefault(role, [])
        known += [found for found in objects if found not in known]

    def planned(self, host: str, plan: Any) -> None:
        """Note what the plan announces because check mode cannot ask for it."""
        found = plan if isinstance(plan, Mapping) else {}
        driver = found.get("driver")
        of_driver = driver.get("changes") if isinstance(driver, Mapping) else None
        for change in found.get("changes") or []:
            said = _text.clean(change)
            if said:
                role = "nvidia_driver" if change in (of_driver or []) else "plan"
                self.differs(host, role, [said[0].lower() + said[1:] if said[1:2].islower() else said])

    def lost(self, host: str, why: Any) -> None:
        """Note that the look at a host ended early."""
        said = _text.clean(str(why)) or ""
        for dressing in ("Task failed: ", "Action failed: ", "Module failed: "):
            said = said.removeprefix(dressing)
        self._lost[host] = said or "no reason given"

    def lines(self, failed: Iterable[str] = ()) -> list[str]:
        """Return the table. A failure that was rescued is none, so the run says which hosts failed in the end."""
        lost = {host: self._lost.get(host, "no reason given") for host in failed}
        hosts = sorted({*self._since, *self._objects, *lost})
        if not hosts:
            return []
        rows = [row for host in hosts for row in self._rows(host, lost.get(host))]
        count = sum(1 for host in hosts if self._objects.get(host))
        head = f"DRIFT: {_hosts(len(hosts))} looked at, {count or 'none'} {'differs' if count < 2 else 'differ'}"
        head += f", {_hosts(len(lost))} not to the end" if lost else ""
        if not rows:
            return [head]
        wide = [max(len(row[column]) for row in [("host", "what differs", "since"), *rows]) for column in (0, 1)]
        lines = [f"{host:<{wide[0]}}  {what:<{wide[1]}}  {since}".rstrip() for host, what, since in rows]
        return [head, f"{'host':<{wide[0]}}  {'what differs':<{wide[1]}}  since", *lines]

    def _rows(self, host: str, lost: str | None) -> list[tuple[str, str, str]]:
        objects = [f"{role}: {found}" for role, some in self._objects.get(host, {}).items() for found in some]
        if len(objects) > _MOST:
            objects = [*objects[: _MOST - 1], f"and {len(objects) - _MOST + 1} more"]
        if lost is not None:
            objects.append(f"not looked at to the end: {lost}")
        since = self._since.get(host)
        said = f"the record of {since}" if since else "no record yet" if since is not None else ""
        return [
            (host if place == 0 else "", what if len(what) <= _WIDE else what[: _WIDE - 1] + "…", "" if place else said)
            for place, what in enumerate(objects)
        ]


def objects_of(task: str, result: Any) -> list[str]:
    """Return the names of what a task would change: the paths that it names, else what the task is called."""
    found = result if isinstance(result, Mapping) else {}
    if isinstance(found.get("results"), list):
        changed = [one for one in found["results"] if isinstance(one, Mapping) and one.get("changed")]
        some = [name for one in changed for name in _paths(one)]
        return some or [_text.clean(task) or "?"]
    return _paths(found) or [_text.clean(task) or "?"]


def _paths(result: Mapping[str, Any]) -> list[str]:
    """Return the paths of our own modules' changes, or of Ansible's diff."""
    changes: dict[str, list[str]] = {}
    for change in result.get("changes") or []:
        if isinstance(change, Mapping) and isinstance(change.get("path"), str):
            changes.setdefault(change["path"], []).append(str(change.get("change") or "changed"))
    if changes:
        named = [f"{path or '/'} ({', '.join(dict.fromkeys(kinds))})" for path, kinds in changes.items()]
        return [_text.clean(name) or "?" for name in named]
    diff = result.get("diff")
    pieces = diff if isinstance(diff, list) else [diff]
    headers = [
        piece.get("after_header") or piece.get("before_header") for piece in pieces if isinstance(piece, Mapping)
    ]
    return list(dict.fromkeys(_text.clean(header) or "?" for header in headers if isinstance(header, str)))


def _hosts(count: int) -> str:
    return f"{count} host{'' if count == 1 else 's'}"
