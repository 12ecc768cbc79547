"""The same probe in another place, a container as a rule: both have to come to the same verdict on the same GPUs."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch_probe.report import Check

CHECK = "beside.agrees"
REMEDY = (
    "If the container sees fewer GPUs, give it its GPUs (CDI, `--device nvidia.com/gpu=all`); if its torch differs, "
    "build the image anew; else run the probe there by hand and read its first cause."
)
# Verdicts that mean the same to whoever uses the host.
CLASSES = {"pass": "good", "warn": "good", "fail": "bad", "error": "bad"}


def probe(command: str, options: Sequence[str], timeout: float) -> dict[str, Any] | str:
    """The report of the probe that this command starts, or one sentence on why there is none."""
    words = [*shlex.split(command), *options, "--format", "none", "--json", "-"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return f"gave no answer within {timeout:.0f} s"
    except OSError as error:
        return f"does not start: {error}"
    try:
        report = json.loads(done.stdout)
        if isinstance(report, dict) and "status" in report:
            return report
    except ValueError:
        pass
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return f"ended with {done.returncode} and no report" + (f": {said[-1]}" if said else "")


def compare(here: Mapping[str, Any], there: dict[str, Any] | str) -> Check:
    """One verdict on both."""
    if isinstance(there, str):
        return Check(CHECK, "fail", f"the probe beside this one {there}", REMEDY, severity="config")
    facts = {
        "status": there["status"],
        "summary": there.get("summary"),
        "torch": (there.get("software") or {}).get("torch"),
        "gpus": _uuids(there.get("gpus") or ()),
    }
    mine, theirs = _uuids(here["gpus"]), facts["gpus"]
    if mine != theirs:
        words = f"the probe beside this one sees {_list(theirs)}, this one {_list(mine)}"
        return Check(CHECK, "fail", words, REMEDY, severity="config", evidence=facts)
    both = [CLASSES.get(status, status) for status in (here["status"], there["status"])]
    if both[0] != both[1]:
        words = f"this probe says {here['status']}, the one beside it {there['status']}: {there.get('summary')}"
        return Check(CHECK, "fail", words, REMEDY, severity="config", evidence=facts)
    return Check(CHECK, "pass", f"the probe beside this one says {there['status']} too", evidence=facts)


def _uuids(gpus: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted(str(gpu.get("uuid") or gpu.get("pci_bus_id")) for gpu in gpus)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "no GPU"
