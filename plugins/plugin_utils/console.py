# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the calm console shows, as text: the part below, which moves, the lines that stay, and the summary.

No terminal, no clock and no Ansible here: what happened comes in with its time, lines go out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

# What takes minutes says why, so that nobody takes it for dead: role, words in the task's name, hint.
HINTS = (
    ("nvidia_driver", "install the packages", "DKMS builds the module for each kernel: minutes"),
    ("nvidia_driver", "build the modules", "DKMS builds the module for each kernel: minutes"),
    ("nvidia_driver", "reboot the host", "it starts again: minutes"),
    ("uv_python", "install the packages", "torch and its stacks: gigabytes where they are not cached"),
    ("dev_container", "image", "the image is built: up to half an hour"),
    ("torch_probe", "measure", "the GPUs are measured: under a minute"),
)
PULSE = ("⠋", "⠙", "⠸", "⠴", "⠦", "⠇")
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")
# Verdicts from bad to good, as a summary sorts its hosts.
_ORDER = ("unreachable", "failed", "error", "fail", "warn", "pending_reboot", "explained", "skipped", "", "pass")


@dataclass
class Host:
    """What is known of a host."""

    name: str
    role: str = ""
    task: str = ""
    since: float | None = None  # when its task began; None while it waits
    changed: int = 0
    state: str = "ok"
    why: str = ""
    verdict: str = ""
    said: str = ""


@dataclass
class Console:
    """The state of a run; times are seconds on any one clock."""

    begun: float = 0.0
    hosts: dict[str, Host] = field(default_factory=dict)
    role: str = ""
    role_begun: float = 0.0
    role_changed: dict[str, int] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)

    def expects(self, names: list[str]) -> None:
        """Note the hosts of a play."""
        for name in names:
            self.hosts.setdefault(name, Host(clean(name)))

    def task(self, role: str, now: float) -> list[str]:
        """Note that a task of a role begins; return the lines that stay of the role before.

        A role that was done is not opened again: others import its look at the host.
        """
        if role in ("", self.role) or role in self.closed:
            return []
        lines = self.role_ends(now)
        self.role, self.role_begun, self.role_changed = role, now, {}
        return lines

    def role_ends(self, now: float) -> list[str]:
        """Return the line that stays of the role, and close it."""
        if not self.role:
            return []
        self.closed.add(self.role)
        name, self.role = self.role, ""
        changes = sum(self.role_changed.values())
        if not changes:
            what = "as wished"
        elif len(self.hosts) == 1:
            what = f"{changes} changed"
        else:
            what = f"changed on {len(self.role_changed)} of {len(self.hosts)} hosts"
        lost = sum(1 for host in self.hosts.values() if host.state != "ok" and host.role == name)
        what += f", FAILED on {lost} host{'' if lost == 1 else 's'}" if lost else ""
        return [f"  {name:<18} {elapsed(now - self.role_begun):>6}  {what}"]

    def begins(self, host: str, task: str, now: float) -> None:
        """Note that a host works on a task."""
        self.expects([host])
        found = self.hosts[host]
        found.state = "ok"  # it goes on, so what failed was rescued
        found.role, found.task, found.since = self.role, clean(task), now

    def ends(self, host: str, state: str = "ok", why: str = "", changed: bool = False) -> None:
        """Note what became of it: ok, skipped, failed or unreachable."""
        self.expects([host])
        found = self.hosts[host]
        found.since = None
        if changed:
            found.changed += 1
            self.role_changed[host] = self.role_changed.get(host, 0) + 1
        if state in ("failed", "unreachable"):
            found.state, found.why = state, clean(why)

    def says(self, host: str, text: str) -> None:
        """Keep the last that a host had to say."""
        self.expects([host])
        self.hosts[host].said = text

    def measured(self, host: str, status: str, summary: str) -> None:
        """Keep the probe's verdict."""
        self.expects([host])
        self.hosts[host].verdict, self.hosts[host].why = clean(status), clean(summary)

    # --- what is shown

    def frame(self, width: int, height: int, now: float, pulse: int = 0) -> list[str]:
        """Return the part that moves: hosts that work, those that have done so for longest first."""
        busy = sorted((host for host in self.hosts.values() if host.since is not None), key=_since)
        most = max(1, min(12, height - 6))
        wide = max((len(host.name) for host in busy[:most]), default=0)
        sign = PULSE[pulse % len(PULSE)]
        lines = []
        for host in busy[:most]:
            took = now - (host.since or now)
            line = f"{sign} {host.name:<{wide}}  {host.role or self.role or 'play'}: {host.task or 'begins'}"
            line += f"  {elapsed(took)}" if took >= 1 else ""
            hint = hint_of(host.role, host.task)
            lines.append(line + (f"  ({hint})" if hint and took >= 3 else ""))
        if len(busy) > most:
            lines.append(f"  and {len(busy) - most} more hosts")
        total = f"{elapsed(now - self.begun)}"
        if len(self.hosts) > 1:
            failed = sum(1 for host in self.hosts.values() if host.state != "ok")
            total += f", {len(busy)} of {len(self.hosts)} hosts at work" + (f", {failed} FAILED" if failed else "")
        lines.append(f"  {total}")
        return [cut(line, width) for line in lines]

    def summary(self, width: int, height: int, now: float, failed: set[str], unreachable: set[str]) -> list[str]:
        """Return the end, which fits a screen. A failure that was rescued is none: the run says which hosts failed."""
        for name, host in self.hosts.items():
            state = "unreachable" if name in unreachable else "failed" if name in failed else "ok"
            host.state = state
        hosts = sorted(self.hosts.values(), key=lambda host: (_rank(host), host.name))
        if len(hosts) == 1 and hosts[0].state == "ok" and hosts[0].said:
            lines = hosts[0].said.splitlines()
        else:
            lines = list(_host_lines(hosts, max(3, height - 5)))
        return [*(cut(clean(line, keep=" "), width) for line in lines), cut(self._total(now), width)]

    def _total(self, now: float) -> str:
        hosts = self.hosts.values()
        bad = [f"{count} {state}" for state in ("failed", "unreachable") if (count := _count(hosts, state))]
        changed = sum(host.changed for host in hosts)
        total = f"{len(self.hosts)} host{'' if len(self.hosts) == 1 else 's'}"
        return f"{', '.join(bad) or 'well'}: {total} in {elapsed(now - self.begun)}, {changed} changed"


def _host_lines(hosts: list[Host], most: int) -> Iterator[str]:
    wide = max((len(host.name) for host in hosts), default=0)
    shown = hosts if len(hosts) <= most else hosts[: most - 1]
    for host in shown:
        word = host.state.upper() if host.state != "ok" else (host.verdict or "ok").replace("_", " ")
        where = f"{host.role}: {host.task}: " if host.state == "failed" and host.role else ""
        yield f"{host.name:<{wide}}  {word:<11}  {where}{host.why}".rstrip()
    if len(hosts) > most:
        rest = hosts[most - 1 :]
        bad = sum(1 for host in rest if host.state != "ok")
        yield f"and {len(rest)} more hosts" + (f", {bad} of them failed" if bad else "")


def _rank(host: Host) -> int:
    word = host.state if host.state != "ok" else host.verdict
    return _ORDER.index(word) if word in _ORDER else _ORDER.index("")


def _count(hosts: Iterable[Host], state: str) -> int:
    return sum(1 for host in hosts if host.state == state)


def _since(host: Host) -> float:
    return host.since or 0.0


def hint_of(role: str, task: str) -> str:
    """Return why a task takes long, or nothing."""
    lower = task.lower()
    return next((hint for of, words, hint in HINTS if of == role and words in lower), "")


def elapsed(seconds: float) -> str:
    """Return 0:07, 12:31 or 1:02:03."""
    whole = max(0, int(seconds))
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def clean(text: str, keep: str = "") -> str:
    """Return the text on one line, without what moves a terminal's cursor."""
    found = _UNSEEN.sub(" ", str(text))
    return found.rstrip() if keep else " ".join(found.split())


def cut(text: str, width: int) -> str:
    """Return the text so that it does not wrap: the moving part is counted in lines."""
    return text if len(text) < width else text[: max(1, width - 2)] + "…"
