"""Xids in the kernel's log: the driver's own account of what went wrong, also before this run.

/dev/kmsg needs a right that plain users often lack, the journal another one. A log that cannot be read is said to be
unread; it is not empty.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch_probe.report import Xid

XID = re.compile(r"NVRM: Xid \(PCI:([0-9a-fA-F:.]+)\): (\d+)(?:, pid='?(\d+)'?)?")


@dataclass(frozen=True)
class LogLine:
    """One line, with the seconds since boot."""

    seconds: float
    text: str


def parse_kmsg(records: Iterable[str]) -> list[LogLine]:
    """`6,1234,5678901,-;text`: priority, number, microseconds since boot, flags."""
    lines = []
    for record in records:
        head, separator, text = record.partition(";")
        parts = head.split(",")
        if separator and len(parts) >= 3 and parts[2].isdigit():
            lines.append(LogLine(int(parts[2]) / 1e6, text.splitlines()[0] if text else ""))
    return lines


def parse_journal(text: str) -> list[LogLine]:
    """The journal's JSON, one object a line."""
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            entry = json.loads(line)
            # The moment of the message itself, not of its arrival in the journal.
            stamp = entry.get("_SOURCE_MONOTONIC_TIMESTAMP") or entry["__MONOTONIC_TIMESTAMP"]
            lines.append(LogLine(int(stamp) / 1e6, str(entry["MESSAGE"])))
    return lines


def read_kmsg(path: Path) -> list[LogLine] | None:
    """Every record that the kernel still has; None without the right to read."""
    records = []
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        while True:
            try:
                record = os.read(handle, 8192)
            except BrokenPipeError:  # overwritten while it was read; the next one is whole
                continue
            except OSError:  # no more for now
                break
            if not record:
                break
            records.append(record.decode(errors="replace"))
    finally:
        os.close(handle)
    return parse_kmsg(records)


def read_journal() -> list[LogLine] | None:
    """The kernel's part of the journal since boot; None where there is none or it shows nothing to this user."""
    command = ["journalctl", "--dmesg", "--boot", "--output=json", "--no-pager", "--quiet", "--grep=NVRM"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        # Exit code 1 is no match: of a log that was read, or of one that was not shown, and nothing tells which.
        if done.returncode == 0:
            return parse_journal(done.stdout)
    return None


def read_log(kmsg: Path) -> list[LogLine] | None:
    """The kernel's log by whichever way is open."""
    lines = read_kmsg(kmsg)
    return lines if lines is not None else read_journal()


def find_xids(lines: Iterable[LogLine], started: float, boot: float, own: frozenset[int]) -> dict[str, list[Xid]]:
    """Xids by the place of the GPU. `started` counts seconds since boot, `boot` is that moment since 1970."""
    found: dict[str, list[Xid]] = {}
    for line in lines:
        match = XID.search(line.text)
        if not match:
            continue
        address, number, pid = match.group(1).lower(), int(match.group(2)), match.group(3)
        at = datetime.datetime.fromtimestamp(boot + line.seconds, datetime.timezone.utc)
        found.setdefault(place(address), []).append(
            {
                "xid": number,
                "at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "during_run": line.seconds >= started,
                "own": int(pid) in own if pid else None,
                "source": "kernel",
                "message": line.text[match.start() :][:300],
            }
        )
    return found


def place(address: str) -> str:
    """`0000:1b:00.0`, `0000:1b:00` and `00000000:1B:00.0` are one place."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:]:0>4}:{rest.partition('.')[0]}"


def since_boot() -> float:
    """Seconds on the clock of the kernel's log."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def merge(from_log: list[Xid], from_nvml: list[Xid]) -> list[Xid]:
    """The log's, and those of NVML that the log does not have: it tells more of each."""
    known = [xid["xid"] for xid in from_log if xid["during_run"]]
    return from_log + [xid for xid in from_nvml if xid["xid"] not in known]
