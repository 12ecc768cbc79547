"""Records of fleets, made of recorded hosts as the role torch_probe and the module host_record would make them."""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import host_facts
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import make_plan
from ansible_collections.gpufleet.host.plugins.module_utils.host_record import probe_brief, record_of, versions_of
from torch_probe import cli

PROBES = Path(__file__).parent / "fixtures/probe"
NOW = "2026-11-25T12:00:00Z"
DEVICES = {"h100": host_facts.H100, "peers": host_facts.H100, "rtx4090": host_facts.RTX_4090}


@functools.cache
def _report(name: str, factor: float) -> str:
    with tempfile.TemporaryDirectory() as directory:
        recording = json.loads((PROBES / f"{name}.json").read_text(encoding="utf-8"))
        for gpu in recording["gpus"]:
            for row in gpu.get("matmul") or []:
                row["tflops"]["sustained"] *= factor
        given, out = Path(directory) / "given.json", Path(directory) / "out.json"
        given.write_text(json.dumps(recording))
        cli.main(["--simulate", str(given), "--json", str(out), "--format", "none"])
        return out.read_text(encoding="utf-8")


def report(name: str, factor: float = 1.0) -> dict[str, Any]:
    """The probe's report of a recorded host, whose GPUs are slower by a factor."""
    found: dict[str, Any] = json.loads(_report(name, factor))
    return found


def record(name: str, factor: float = 1.0, days: int = 0, driver: str = "580.178.04", **more: Any) -> dict[str, Any]:
    """What /var/lib/gpufleet/record.json of a recorded host holds."""
    probe = report(name, factor)
    device = next((device for begin, device in DEVICES.items() if name.startswith(begin)), None)
    count = len(probe["gpus"])
    facts = host_facts.host(*([device] * count if device else []), driver=driver)
    facts["venv"] = {**(facts.get("venv") or {}), "python": "3.12.13", "torch": probe["software"]["torch"]}
    time = f"2026-11-{25 - days:02d}T03:00:00Z" if days < 25 else "2026-09-01T03:00:00Z"
    after = versions_of(facts)
    return {
        "schema": 1,
        "time": time,
        "collection": "0.2.0",
        "facts": facts,
        "plan": {**make_plan(facts, {}), "changes": []},
        "versions": {"before": after, "after": after},
        "actions": [],
        "rebooted": False,
        "probe": {**probe_brief(probe, "/var/lib/gpufleet/probe.json"), "started_at": time},
        **more,
    }


def result(found: Any, upgrade: Any = None) -> dict[str, Any]:
    """What the module host_record returns for a record."""
    return {"changed": False, "state": "ok", "why": "", "record": record_of(found, upgrade)}


def small_fleet() -> dict[str, Any]:
    """Three hosts: one is well, one has a straggler, one does not answer."""
    return {
        "gpu01": result(record("h100_x8")),
        "gpu02": result(record("h100_x8_straggler", driver="580.95.05")),
        "gpu03": {"unreachable": True, "msg": "Failed to connect to the host via ssh: timed out"},
    }


def large_fleet(count: int = 1000) -> dict[str, Any]:
    """Hosts of eight GPUs, some of them not well, each with a record of its own."""
    upgrade = {
        "status": "rolled_back",
        "time": "2026-11-24T02:00:00Z",
        "reason": "software.kernel: a small kernel does not run.",
        "before": {"user_space": "580.178.04"},
        "after": {"user_space": "580.178.04"},
    }
    stale = result(record("h100_x8", days=40))
    usual = result(record("h100_x8"))
    odd: dict[int, Any] = {
        3: result(record("h100_x8_straggler")),
        7: {"unreachable": True, "msg": "Failed to connect to the host via ssh: No route to host"},
        11: result(record("h100_capped")),
        17: {"state": "no_record", "why": "there is no /var/lib/gpufleet/record.json yet: run `site` there"},
        23: result(record("nvml_18")),
        29: result(record("no_gpu", driver="")),
        31: result(record("h100_x8", 0.93)),
        37: result(record("h100_x8"), upgrade),
        41: result(record("rtx4090")),
        43: stale,
        47: result(record("h100_x8", driver="570.172.08")),
        53: {"state": "bad_record", "why": "/var/lib/gpufleet/record.json is not JSON", "record": None},
        59: result(record("h100_x8_hot")),
        61: result(record("laptop")),
    }
    fleet = {}
    for number in range(count):
        found = odd.get(number % 100, usual) if number % 100 in odd else usual
        fleet[f"gpu{number:04d}.lab.example"] = copy.deepcopy(found)
    return fleet
