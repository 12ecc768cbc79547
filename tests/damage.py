"""Ways to damage a converged host: check mode announces each, the run mends each, and only that."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).resolve().parents[1] / "molecule/uninstall/snapshot.py"


@dataclass(frozen=True)
class Damage:
    """One way to damage a host, and what check mode has to announce for it; a ``*`` in it stands for anything."""

    command: str
    found: str
    also: tuple[str, ...] = ()


def path(role: str, name: str, command: str) -> Damage:
    """Return a damage to the one file that ``%`` stands for in the command."""
    return Damage(command.replace("%", name), f"{role}: {name}")


def snapshot(host: Any, left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a host is, by the program that `uninstall` compares with too."""
    program = f"import sys; exec({json.dumps(SNAPSHOT.read_text())})"
    done = host.run("python3 -c %s /var/tmp/now.json", program)
    assert done.rc == 0, done.stderr
    found: dict[str, Any] = json.loads(host.file("/var/tmp/now.json").content_string)
    return {
        **{name: facts for name, facts in found["files"].items() if not name.startswith(left_out)},
        "packages": found["packages"],
        "units": found["unit files"],
        "active": [line.split()[:3] for line in found["active"]],
    }


def different(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the names whose facts are not the same."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


def matches(expected: str, announced: str) -> bool:
    """Whether what was announced is what was expected."""
    first, star, last = expected.partition("*")
    return announced == expected or (bool(star) and announced.startswith(first) and announced.endswith(last))


def found_and_mended(
    host: Any,
    again: Callable[..., Any],
    ways: dict[str, Damage],
    *,
    left_out: tuple[str, ...] = (),
    whole: Iterable[str] = (),
    **how: Any,
) -> None:
    """Damage the host in all ways at once, and judge what ``--check`` says of it and what the run does.

    Args:
        host: the damaged host, converged.
        again: runs the playbook, as the fixture does.
        ways: the damages by name.
        left_out: paths below which each run or each installation writes.
        whole: announcements that stand for more than what the run then names, such as "packages would be installed".
        how: arguments of `again`: the playbook, and wishes.
    """
    before = snapshot(host, left_out)
    for way, damage in ways.items():
        done = host.run(damage.command)
        assert done.rc == 0, f"{way}: {done.stderr}"
    looked = again("--check", **how)
    # Mended before it is judged, so that what comes next begins with a whole host.
    mended = again(**how)
    after = snapshot(host, left_out)
    last = again("--check", **how)
    assert (looked.ok, mended.ok, last.ok) == (True, True, True), (looked.sentence, mended.sentence, last.sentence)
    wanted = [(way, one) for way, damage in ways.items() for one in (damage.found, *damage.also)]
    told = {
        "not announced": [way for way, one in wanted if not any(matches(one, other) for other in looked.changes)],
        "announced besides": [one for one in looked.changes if not any(matches(other, one) for _way, other in wanted)],
        "announced and not done": sorted({one for one in looked.changes if one not in whole} - mended.changes),
        "not as before": different(before, after),
        "still announced": sorted(last.changes),
    }
    assert not any(told.values()), told
