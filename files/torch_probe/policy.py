"""Thresholds: every number of the verdict stands in policy.json with its reason, and can be replaced."""

from __future__ import annotations

import hashlib
import json
import math
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class PolicyError(Exception):
    """One sentence on what is wrong with a policy file or a --set."""


class Policy:
    """Thresholds by name: ``policy["warn.peers"]``."""

    def __init__(self, values: Mapping[str, float], reasons: Mapping[str, str], source: str = "builtin") -> None:
        self.values, self.reasons, self.source = dict(values), dict(reasons), source

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    @property
    def sha256(self) -> str:
        """Of the values in force, so that two reports that were judged alike say so."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()

    def describe(self) -> dict[str, str]:
        """As the report names it."""
        return {"source": self.source, "sha256": self.sha256}


def load(path: Path | None = None, changes: Iterable[str] = ()) -> Policy:
    """The built-in policy, with the values of a file (which may name a few only) and of `name=value` words."""
    data = pkgutil.get_data(__package__, "policy.json")
    if data is None:
        raise FileNotFoundError("policy.json")
    builtin: dict[str, Any] = json.loads(data)
    rules = {name: rule for name, rule in builtin.items() if name != "version"}
    values = {name: float(rule["value"]) for name, rule in rules.items()}
    reasons = {name: str(rule["why"]) for name, rule in rules.items()}
    sources = []
    if path is not None:
        for name, rule in _read(path).items():
            place = f"{path}: {name}"
            values[_known(name, values, place)] = _number(rule.get("value") if isinstance(rule, dict) else rule, place)
            if isinstance(rule, dict) and rule.get("why"):
                reasons[name] = str(rule["why"])
        sources.append(str(path))
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise PolicyError(f"--set {change}: write NAME=NUMBER, for example warn.peers=0.05")
        values[_known(name.strip(), values, f"--set {change}")] = _number(text, f"--set {change}")
        sources.append(f"--set {change}")
    _check_order(values)
    return Policy(values, reasons, ", ".join(sources) or "builtin")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"--policy {path}: {error}") from error
    if not isinstance(found, dict):
        raise PolicyError(f"--policy {path}: is no JSON object of names and numbers")
    return {name: rule for name, rule in found.items() if name != "version"}


def _known(name: str, values: Mapping[str, float], place: str) -> str:
    if name not in values:
        raise PolicyError(f"{place}: there is no such threshold; there are {', '.join(sorted(values))}")
    return name


def _number(value: object, place: str) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise PolicyError(f"{place}: {value!r} is no number of 0 or more")
    return number


def _check_order(values: Mapping[str, float]) -> None:
    """A threshold to fail that is reached before the one to warn is a slip of the hand."""
    for name, fail in values.items():
        warn = values.get(name.replace("fail.", "warn.", 1)) if name.startswith("fail.") else None
        if warn is None:
            continue
        # Shares of something expected fall; losses and events rise.
        rises = name in ("fail.peers", "fail.together", "fail.sw_thermal")
        if (fail < warn) if rises else (fail > warn):
            raise PolicyError(f"policy: {name} {fail:g} would be reached before warn.{name[5:]} {warn:g}")
