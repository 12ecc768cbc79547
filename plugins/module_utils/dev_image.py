"""What a dev container's image is made of: the lock of its heavy layer, its name's hash, and why it differs. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

# What weighs gigabytes: torch, its companions and CUDA. All the rest of the set is a tenth of the bytes.
_HEAVY = re.compile(r"(torch|torchvision|torchaudio|triton|nvidia-.+|cuda-.+)")
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")


def torch_lock(lock: str) -> str:
    """Return the part of a lock that is torch and what only torch needs, line for line.

    Args:
        lock: a requirement file with hashes, one package after the other, as uv writes it.
    """
    taken: list[str] = []
    take = False
    for line in lock.splitlines():
        if not line.startswith((" ", "\t")):
            found = _PIN.match(line)
            take = bool(found and _HEAVY.fullmatch(found.group(1).lower()))
        if take:
            taken.append(line)
    return "".join(f"{line}\n" for line in taken)


def image_hash(inputs: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hexadecimal) of everything that goes into an image, whatever the order of its keys."""
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def image_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return in words what is not as it was for the last image; none for equal inputs.

    Args:
        before: the inputs of the last build, as they were noted; may be of an older release.
        after: the inputs now: ``context`` {path: text}, ``args`` {name: value} and plain values.
    """
    found: list[str] = []
    for part in sorted(set(before) | set(after)):
        old, new = before.get(part), after.get(part)
        if part == "context":
            found += _files(old if isinstance(old, Mapping) else {}, new if isinstance(new, Mapping) else {})
        elif isinstance(new, Mapping):
            there = old if isinstance(old, Mapping) else {}
            found += [
                f"{name} {there.get(name, 'unset')} -> {new.get(name, 'unset')}"
                for name in sorted({*there, *new})
                if there.get(name) != new.get(name)
            ]
        elif old != new:
            found.append(f"{part} {old} -> {new}")
    return found


def _files(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    found = [f"new {name}" for name in sorted(set(new) - set(old))]
    found += [f"no more {name}" for name in sorted(set(old) - set(new))]
    for name in sorted(set(old) & set(new)):
        if old[name] != new[name]:
            found.append(_pins(name, old[name], new[name]) or f"{name} changed")
    return found


def _pins(name: str, old: str, new: str) -> str:
    """Return which versions of a lock moved, in words; "" where none did or the file is no lock."""
    if not name.endswith(".txt"):
        return ""
    before, after = dict(_PIN.findall(old)), dict(_PIN.findall(new))
    moved = [
        f"{package} {before.get(package, 'none')} -> {after.get(package, 'none')}"
        for package in sorted(set(before) | set(after))
        if before.get(package) != after.get(package)
    ]
    more = f" and {len(moved) - 5} more" if len(moved) > 5 else ""
    return f"{name}: {', '.join(moved[:5])}{more}" if moved else ""
