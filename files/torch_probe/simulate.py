"""A recorded host: what was measured elsewhere goes through the whole verdict and every rendering.

A recording is a report, or any part of one: what is missing is unknown. Its verdicts are left behind, because they are
what is made anew; the checks of before the measuring (`gpu.`, `software.`, `probe.`) are facts, and stay.
"""

from __future__ import annotations

import json
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from torch_probe.checks import CATALOGUE
from torch_probe.report import Check, Measured, blank

LOOK = ("gpu.", "software.", "probe.")
KEPT = (*LOOK, "beside.")


class RecordingError(Exception):
    """One sentence on what is wrong with a recording."""


class Recording:
    """The data and the look of a recorded host."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.measured: Measured = complete(Measured, {name: document.get(name) for name in Measured.__annotations__})
        known = {field.name for field in fields(Check)}
        found = [row for row in document.get("checks") or () if row["id"].startswith(KEPT) and row["id"] in CATALOGUE]
        self.look = [Check(**{name: value for name, value in row.items() if name in known}) for row in found]
        present = {check.id for check in self.look}
        self.look += [
            Check(check_id, "not_run", "not in the recording")
            for check_id in CATALOGUE
            if check_id.startswith(LOOK) and check_id not in present
        ]

    @property
    def profile(self) -> str:
        """The profile that it was recorded with."""
        return str((self.document.get("tool") or {}).get("profile") or "quick")

    def expect(self, require: bool, expected: int | None) -> None:
        """Judge the number of GPUs anew, by what was recorded."""
        found = self.measured["host"]["pci_nvidia_devices"]
        count = len(self.measured["gpus"]) if found is None else found
        remedy = (
            "Check power, seating and the firmware's PCI settings (`lspci -d 10de:`), or probe without this demand."
        )
        for check_id, wrong, message in (
            ("gpu.present", require and not count, "no NVIDIA GPU on the PCI bus, and --require-gpu asks for one"),
            ("gpu.count", expected not in (None, count), f"expected {expected} NVIDIA GPUs, found {count}"),
        ):
            if wrong or (check_id == "gpu.count" and expected is not None):
                self.look = [check for check in self.look if check.id != check_id]
                bad = Check(check_id, "fail", message, remedy, severity="config", value=count)
                self.look.append(bad if wrong else Check(check_id, "pass", message, value=count))


def read(path: Path) -> Recording:
    """Raise RecordingError where it is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise RecordingError(f"--simulate {path}: is no JSON object; record one with --json FILE")
        return Recording(document)
    except (OSError, ValueError) as error:
        raise RecordingError(f"--simulate {path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise RecordingError(
            f"--simulate {path}: is no report of the probe ({type(error).__name__}: {error})"
        ) from error


def complete(kind: Any, data: Any) -> Any:
    """`data` as a whole value of this type: fields that are missing are unknown, foreign ones are dropped."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        return None if data is None else complete(arguments[0], data)
    if origin is list:
        return [complete(arguments[0], item) for item in data or ()]
    if not hasattr(kind, "__total__"):
        return data
    whole = cast("dict[str, Any]", blank(kind))
    for name, hint in typing.get_type_hints(kind).items():
        if data and data.get(name) is not None:
            whole[name] = complete(hint, data[name])
    return whole
