# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What of a host's record leaves the host: the names here are all of it.

A record is made by root of another machine, so it is read as a stranger's: each field has a shape, and what is not
named here goes nowhere. That is also how it is known that no report holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils.shapes import Choice, Fields, Flag, Many, Number, Text

STATUSES = ("pass", "skipped", "pending_reboot", "explained", "warn", "fail", "error")
# Checks that a person has to see; the others are counted by the host's verdict.
BAD = ("fail", "error", "warn", "pending_reboot", "explained")

_NAME = Text(80)
_RATE = Number(above_zero=True)
_VERDICT = Choice((*STATUSES, "info", "not_run", "unknown"))

_MATMUL = Fields(
    {
        "dtype": Text(12),
        "mode": Choice(("alone", "together")),
        "status": _VERDICT,
        "tflops": Fields({"sustained": _RATE, "burst": _RATE}),
        "expected_tflops": _RATE,
        "ratio": Fields({"reference": Number(), "peers": Number(), "history": Number()}),
        "efficiency_at_clock": Number(),
        "window": Fields(
            {"sm_clock_mhz": Fields({"mean": Number()}), "power_w": Number(), "temp_c": Fields({"max": Number()})}
        ),
    }
)
_GPU = Fields(
    {
        "index": Number(whole=True),
        "uuid": _NAME,
        "pci_bus_id": _NAME,
        "name": _NAME,
        "sm_count": Number(whole=True),
        "memory_total_bytes": Number(whole=True),
        "mig": Flag(),
        "status": _VERDICT,
        "power": Fields({"limit_w": Number(), "default_limit_w": Number()}),
        "matmul": Many(_MATMUL, 24),
        "bandwidth": Fields({"device_copy_gb_s": _RATE, "h2d_gb_s": _RATE, "d2h_gb_s": _RATE}),
    }
)
_CHECK = Fields(
    {
        "id": _NAME,
        "gpu": _NAME,
        "status": Choice((*BAD, "unknown")),
        "severity": Choice(("monitor", "isolate", "reset", "replace", "config", "none")),
        "message": Text(400),
        "remedy": Text(400),
        "evidence": Fields({"cause": Text(200)}),
    }
)
PROBE = Fields(
    {
        "status": Choice((*STATUSES, "unknown")),
        "summary": Text(400),
        "started_at": _NAME,
        "duration_s": Number(),
        "path": Text(200),
        "tool": Fields({"name": _NAME, "version": _NAME, "profile": _NAME}),
        "software": Fields({"driver": _NAME, "torch": _NAME, "torch_cuda": _NAME}),
        "cpu": Fields(
            {
                "threads": Number(whole=True),
                "matmul": Many(
                    Fields({"dtype": Text(12), "status": _VERDICT, "gflops": Fields({"sustained": _RATE})}), 8
                ),
            }
        ),
        "gpus": Many(_GPU, 32),
        "checks": Many(_CHECK, 40),
        "checks_left_out": Number(whole=True),
    },
    "The probe's verdict and numbers; the fields of docs/probe.schema.json that a fleet is compared by.",
)
_VERSIONED = "kernel driver driver_on_disk driver_user_space python torch uv docker podman containerd toolkit"
VERSIONS = Fields(dict.fromkeys(_VERSIONED.split(), _NAME))
_SENTENCES = Many(Text(400), 40)
_SYSTEM = Fields(
    {
        "hostname": _NAME,
        "pretty_name": _NAME,
        "architecture": Text(20),
        "virtualization": Text(30),
        "cpu": _NAME,
        "vcpus": Number(whole=True),
        "memory_bytes": Number(whole=True),
        "gpus": Number(whole=True),
        "device_ids": Many(Text(12), 32),
    }
)
_UPGRADE = Fields(
    {
        "status": Choice(("begun", "done", "pending_reboot", "rolled_back", "none")),
        "time": _NAME,
        "reason": Text(600),
        "before": _NAME,
        "after": _NAME,
    },
    "How the last playbooks/upgrade.yml ended, with the driver before and after.",
)
RECORD = Fields(
    {
        "time": _NAME,
        "collection": _NAME,
        "system": _SYSTEM,
        "versions": Fields({"before": VERSIONS, "after": VERSIONS}),
        "actions": _SENTENCES,
        "left": _SENTENCES,
        "warnings": _SENTENCES,
        "reboot": Fields({"required": Flag(), "rebooted": Flag(), "reasons": _SENTENCES}),
        "upgrade": _UPGRADE,
        "probe": PROBE,
    }
)


def versions_of(facts: Any) -> dict[str, Any]:
    """Return the versions of what the collection brings, from a host's facts."""
    driver, venv, engines = (_below(facts, name) for name in ("driver", "venv", "engines"))
    kernel = _below(facts, "system").get("kernel")
    cleaned: dict[str, Any] = VERSIONS.clean(
        {
            "kernel": kernel,
            "driver": driver.get("loaded"),
            "driver_on_disk": _below(driver, "on_disk").get(kernel),
            "driver_user_space": driver.get("user_space"),
            "python": venv.get("python"),
            "torch": venv.get("torch"),
            "uv": _below(facts, "uv").get("version"),
            "docker": engines.get("docker"),
            "podman": engines.get("podman"),
            "containerd": engines.get("containerd"),
            "toolkit": _field(facts, "toolkit"),
        }
    )
    return cleaned


def probe_brief(report: Any, path: str | None = None) -> dict[str, Any]:
    """Return of the probe's report, or of what was made of one before, what a fleet is compared by."""
    found = report if isinstance(report, Mapping) else {}
    checks = found.get("checks")
    bad = [check for check in checks if _below(check, "status", str) in BAD] if isinstance(checks, list) else []
    order = {status: place for place, status in enumerate(BAD)}
    bad.sort(key=lambda check: order[check["status"]])
    brief: dict[str, Any] = PROBE.clean({**found, "checks": bad, "path": found.get("path") if path is None else path})
    before = Number(whole=True).clean(found.get("checks_left_out")) or 0
    brief["checks_left_out"] = before + len(bad) - len(brief["checks"])
    return brief


def actions_of(planned: Any, left: Any) -> list[str]:
    """Return what was to do at the first look and is not at the last."""
    still = set(_SENTENCES.clean(left))
    return [change for change in _SENTENCES.clean(planned) if change not in still]


def record_of(record: Any, upgrade: Any = None, nightly: Any = None) -> dict[str, Any]:
    """Return what of a host's record a report may hold. A record of an older release lacks some of it.

    The timer's own measurement takes the place of the run's, where it is the later one.
    """
    found = record if isinstance(record, Mapping) else {}
    facts, plan = _below(found, "facts"), _below(found, "plan")
    system, driver = _below(facts, "system"), _below(plan, "driver")
    gpus = _below(facts, "gpus", list)
    known = _below(found, "versions")
    reboot = _below(driver, "reboot")
    asked = _below(facts, "reboot")
    reasons = [_below(reason, "text", str) for reason in _below(reboot, "reasons", list)]
    cleaned: dict[str, Any] = RECORD.clean(
        {
            **{name: found.get(name) for name in ("time", "collection", "actions")},
            "system": {
                **{name: system.get(name) for name in ("hostname", "pretty_name", "architecture", "virtualization")},
                "cpu": _below(facts, "cpu").get("model"),
                "vcpus": _below(facts, "cpu").get("vcpus"),
                "memory_bytes": facts.get("memory_bytes"),
                "gpus": len(gpus),
                "device_ids": [_below(gpu, "device_id", str) for gpu in gpus],
            },
            "versions": {"before": known.get("before"), "after": versions_of(facts)},
            "left": plan.get("changes"),
            "warnings": plan.get("warnings"),
            "reboot": {
                "required": bool(reboot.get("required") is True or asked.get("required") is True) if facts else None,
                "rebooted": found.get("rebooted"),
                "reasons": reasons or asked.get("reasons"),
            },
            "upgrade": _upgrade_of(upgrade),
        }
    )
    return {**cleaned, "probe": probe_brief(_later(found.get("probe"), nightly))}


def _later(probe: Any, nightly: Any) -> Any:
    """Return the measurement that began later; their times are texts of one form."""
    began, then = (Text(80).clean(_field(report, "started_at")) or "" for report in (probe, nightly))
    return nightly if then > began else probe


def _upgrade_of(upgrade: Any) -> dict[str, Any]:
    found = upgrade if isinstance(upgrade, Mapping) else {}
    driver = {name: _below(found, name).get("user_space") for name in ("before", "after")}
    return {**{name: found.get(name) for name in ("status", "time", "reason")}, **driver}


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _below(value: Any, name: str, kind: type = dict) -> Any:
    """Return what stands below a name, or nothing of its kind."""
    inner = value.get(name) if isinstance(value, Mapping) else None
    return inner if isinstance(inner, kind) else kind()
