# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The fleet's report from the records of its hosts: a pure function, on the controller."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.gpufleet.host.plugins.filter.probe_compare import (
    kind_of,
    models,
    policy_of_probe,
    stragglers,
)
from ansible_collections.gpufleet.host.plugins.module_utils.host_record import RECORD, probe_brief
from ansible_collections.gpufleet.host.plugins.module_utils.shapes import Choice, Fields, Many, Number, Text

# What becomes of a host, the best first. The worst is on top of the report.
ORDER = (
    "pass",
    "explained",
    "skipped",
    "unknown",
    "no_record",
    "pending_reboot",
    "warn",
    "unreachable",
    "error",
    "fail",
)
STATES = ("ok", "no_record", "unreachable", "bad_record")
KINDS = ("problem", "straggler", "drift", "reboot", "upgrade", "left", "stale", "state")
# The dtype that a host is shown by, the first that was measured; as the probe shows a GPU.
SHOWN = ("bf16", "fp16", "tf32", "fp32")
STALE_DAYS = 30
# Two hosts that differ do not say which of them has drifted.
_FEWEST_EQUALS = 3

Row = dict[str, Any]
Note = dict[str, Any]

_NOTE = Fields(
    {
        "id": Text(100),
        "kind": Choice(KINDS),
        "status": Choice((*ORDER, "info")),
        "gpu": Text(80),
        "text": Text(600),
        "remedy": Text(400),
    },
    "One thing that somebody has to know about the host.",
)
_SPEED = Fields(
    {
        "dtype": Text(12),
        "unit": Text(12),
        "value": Number(),
        "expected": Number(),
        "ratio": Number(),
        "basis": Text(12),
        "gpus": Many(
            Fields(
                {
                    "index": Number(whole=True),
                    "value": Number(),
                    "expected": Number(),
                    "ratio": Number(),
                    "status": Choice((*ORDER, "info", "not_run")),
                }
            ),
            32,
        ),
    },
    "The product that the host is shown by. basis: reference (a known figure) or equals (the fleet's median).",
)
HOST = Fields(
    {
        "name": Text(200),
        "state": Choice(STATES),
        "status": Choice(ORDER),
        "summary": Text(600),
        "age_days": Number(),
        **RECORD.of,
        "speed": _SPEED,
        "notes": Many(_NOTE, 80),
    }
)
_MODEL = Fields(
    {
        "name": Text(80),
        "sm_count": Number(whole=True),
        "memory_total_bytes": Number(whole=True),
        "count": Number(whole=True),
        "hosts": Many(Text(200), 100_000),
    }
)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the report, which is docs/fleet.schema.json."""
    hosts = HOST.schema()
    model = _MODEL.schema()
    model["properties"]["medians"] = {"type": "object", "additionalProperties": {"type": "number"}}
    properties = {
        "schema": {"const": 1},
        "time": {"type": "string"},
        "collection": {"type": "string"},
        "status": {"enum": list(ORDER)},
        "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
        "models": {"type": "array", "items": model},
        "hosts": {"type": "array", "items": hosts},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gpufleet fleet report 1",
        "description": "What reports/fleet.json holds. Unknown is null. Fields are only added within one schema.",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def fleet_report(results: Mapping[str, Any], time: str, collection: str, stale_days: float = STALE_DAYS) -> Row:
    """Return the report from each host's result of the module host_record."""
    rows = [_row_of(str(name), result, time) for name, result in results.items()]
    reports = {row["name"]: row["probe"] for row in rows}
    slow: dict[str, list[Row]] = {}
    for found in stragglers(reports, policy_of_probe()):
        slow.setdefault(found["host"], []).append(found)
    kinds = models(reports)
    medians = {(kind["name"], kind["sm_count"], kind["memory_total_bytes"]): kind for kind in kinds}
    usual = usual_versions(rows)
    for row in rows:
        row["notes"] = [
            note
            for some in (
                _state_notes(row),
                _problem_notes(row),
                _straggler_notes(slow.get(row["name"], [])),
                _upgrade_notes(row),
                _drift_notes(row, usual),
                _reboot_notes(row),
                _stale_notes(row, stale_days),
            )
            for note in some
        ]
        row["notes"].sort(key=lambda note: -ORDER.index(note["status"]) if note["status"] in ORDER else 1)
        row["speed"] = _speed(row["probe"], medians, slow.get(row["name"], []))
        row["status"] = _worst([row["status"], *(note["status"] for note in row["notes"])])
    counts = Counter(row["status"] for row in rows)
    return {
        "schema": 1,
        "time": time,
        "collection": collection,
        "status": _worst(counts),
        "counts": {status: counts[status] for status in reversed(ORDER) if counts[status]},
        "models": [{**_MODEL.clean(kind), "medians": kind["medians"]} for kind in kinds],
        "hosts": [{name: row[name] for name in HOST.of} for row in rows],
    }


def lines_of(fleet: Row) -> list[str]:
    """Return the report for a screen: what is not good, the worst first, then the kinds of GPU, then the counts."""
    hosts = sorted(fleet["hosts"], key=lambda row: (-ORDER.index(row["status"]), row["name"]))
    bad = [row for row in hosts if ORDER.index(row["status"]) > ORDER.index("unknown") or row["notes"]]
    most = 20
    lines = []
    for row in bad[:most]:
        said = row["notes"][0]["text"] if row["notes"] else row["summary"]
        lines.append(f"{row['name']}: {_words(row['status']).upper()}  {said}")
    if len(bad) > most:
        lines.append(f"and {len(bad) - most} more hosts with something to know")
    for kind in fleet["models"]:
        rates = ", ".join(f"{metric} {value:g}" for metric, value in kind["medians"].items())
        lines.append(f"{kind['count']} x {kind['name'] or 'unknown GPU'} on {len(kind['hosts'])} hosts: {rates}")
    counts = ", ".join(f"{count} {_words(status)}" for status, count in fleet["counts"].items())
    return [*lines, f"{len(hosts)} hosts: {counts or 'none'}"]


def reports_of(fleet: Row) -> dict[str, Row]:
    """Return each host as a report of the probe, for the probe's own renderings: a note is a check."""
    found = {}
    for row in fleet["hosts"]:
        probe = row["probe"]
        verdict = {"id": "fleet.verdict", "status": _as_probe(row["status"]), "message": row["summary"], "gpu": None}
        checks = [{**verdict, "remedy": "", "severity": "none"}]
        seen = {("fleet.verdict", None)}
        for note in row["notes"]:
            key = (note["id"], note["gpu"])
            if key not in seen:
                seen.add(key)
                status = _as_probe(note["status"])
                checks.append({**note, "status": status, "message": note["text"], "severity": "none"})
        found[row["name"]] = {
            "tool": {"name": "gpufleet", "profile": probe["tool"]["profile"] or ""},
            "host": {"hostname": row["name"]},
            "status": _as_probe(row["status"]),
            "started_at": probe["started_at"] if _moment(probe["started_at"]) else None,
            "duration_s": probe["duration_s"],
            "gpus": probe["gpus"],
            "checks": checks,
        }
    return found


# --- one host --------------------------------------------------------------------------------------------------------


def _row_of(name: str, result: Any, now: str) -> Row:
    found = result if isinstance(result, Mapping) else {}
    record = RECORD.clean(found.get("record"))
    record["probe"] = probe_brief(record["probe"])
    state, why = found.get("state"), Text(300).clean(found.get("why"))
    if state not in STATES or found.get("unreachable"):
        unreachable = bool(found.get("unreachable")) or not found
        said = (Text(300).clean(found.get("msg")) or "").removeprefix("Task failed: ") or (
            "no answer" if unreachable else "its record could not be read"
        )
        state, why = ("unreachable", said) if unreachable else ("bad_record", said)
    if state != "ok":
        record = {**RECORD.clean(None), "probe": probe_brief(None)}
    status = {"no_record": "no_record", "unreachable": "unreachable", "bad_record": "error"}.get(state)
    probe = record["probe"]
    return {
        "name": Text(200).clean(name) or "?",
        "state": state,
        "status": status or probe["status"],
        "summary": why if state != "ok" else probe["summary"] or "no measurement in the record",
        "age_days": _age(record["time"], now),
        **record,
    }


def _note(
    kind: str, status: str, text: str, about: str = "", gpu: str | None = None, remedy: str | None = None
) -> Note:
    name = about if kind == "problem" else f"{kind}.{about}" if about else f"fleet.{kind}"
    return {"id": name, "kind": kind, "status": status, "gpu": gpu, "text": text, "remedy": remedy}


def _state_notes(row: Row) -> Iterator[Note]:
    if row["state"] != "ok":
        yield _note("state", row["status"], row["summary"])


def _problem_notes(row: Row) -> Iterator[Note]:
    for check in row["probe"]["checks"]:
        # A loss against its own past is drift, whatever the chip's absolute speed.
        kind = "drift" if str(check["id"]).endswith(".history") else "problem"
        cause = check["evidence"]["cause"]
        text = f"{check['message'] or ''}{f': {cause}' if cause else ''}"
        note = _note(kind, check["status"], text, gpu=check["gpu"], remedy=check["remedy"] or "")
        yield {**note, "id": str(check["id"])}
    left = row["probe"]["checks_left_out"]
    if left:
        yield _note("problem", "info", f"and {left} more such verdicts in {row['probe']['path']}", "more")


def _straggler_notes(slow: Sequence[Row]) -> Iterator[Note]:
    """One note a GPU, for its slowest rate."""
    by_gpu: dict[Any, list[Row]] = {}
    for found in slow:
        by_gpu.setdefault(found["gpu"], []).append(found)
    for gpu, found_all in by_gpu.items():
        worst = max(found_all, key=lambda found: (ORDER.index(found["status"]), -found["ratio"]))
        text = f"GPU {gpu} gives {worst['ratio']:.0%} of the median of {worst['count']} equal GPUs in the fleet"
        text += f" in {worst['metric']} ({worst['value']:.4g} of {worst['median']:.4g})"
        text += f": {worst['cause']}" if worst["cause"] else ""
        remedy = (
            "" if worst["cause"] else "Measure again: `./run probe`. If it stays, compare its cooling and its slot."
        )
        yield _note("straggler", worst["status"], text, f"gpu{gpu}", worst["uuid"], remedy)


def _upgrade_notes(row: Row) -> Iterator[Note]:
    upgrade = row["upgrade"]
    went = f"driver {upgrade['before'] or 'none'}"
    if upgrade["status"] == "rolled_back":
        text = f"the last upgrade failed and was rolled back, {went} is back: {upgrade['reason'] or 'no reason given'}"
        yield _note("upgrade", "warn", text)
    elif upgrade["status"] == "begun":
        text = f"an upgrade from {went} was begun and not ended"
        yield _note("upgrade", "warn", text, remedy="Run the playbook upgrade again.")


def _reboot_notes(row: Row) -> Iterator[Note]:
    reboot = row["reboot"]
    if reboot["required"]:
        why = "; ".join(reboot["reasons"]) or "no reason given"
        yield _note("reboot", "info", f"a reboot is due: {why}", remedy="Reboot, then run `site` again.")


def _stale_notes(row: Row, stale_days: float) -> Iterator[Note]:
    if row["age_days"] is not None and row["age_days"] > stale_days:
        text = f"the record is {row['age_days']:.0f} days old"
        yield _note("stale", "info", text, remedy="Run `site` there: it measures and records anew.")


# --- what differs from most ------------------------------------------------------------------------------------------


def usual_versions(rows: Sequence[Row]) -> dict[tuple[Any, str], tuple[str, int, int]]:
    """Return what more than half of the hosts with the same GPUs have: the version, on how many, of how many."""
    groups: dict[tuple[Any, str], list[str]] = {}
    for row in rows:
        for what, value in _compared(row).items():
            if value:
                groups.setdefault((_sort_of(row), what), []).append(value)
    usual = {}
    for key, values in groups.items():
        value, count = Counter(values).most_common(1)[0]
        if len(values) >= _FEWEST_EQUALS and 2 * count > len(values):
            usual[key] = (value, count, len(values))
    return usual


def _sort_of(row: Row) -> tuple[Any, ...]:
    """Hosts of one sort should be alike: the same GPUs on the same kind of processor."""
    gpus = row["probe"]["gpus"]
    names = tuple(sorted(str(gpu["name"]) for gpu in gpus)) or tuple(sorted(row["system"]["device_ids"]))
    return (names, row["system"]["architecture"])


def _compared(row: Row) -> dict[str, str | None]:
    versions = row["versions"]["after"]
    named = {name: versions[name] for name in ("driver", "torch", "docker", "toolkit")}
    return {**named, "collection": row["collection"]}


def _drift_notes(row: Row, usual: Mapping[tuple[Any, str], tuple[str, int, int]]) -> Iterator[Note]:
    if row["state"] != "ok":
        return
    for what, value in _compared(row).items():
        expected = usual.get((_sort_of(row), what))
        if expected and value and value != expected[0]:
            most, count, total = expected
            text = f"{what} is {value} here and {most} on {count} of {total} such hosts"
            yield _note("drift", "info", text, what)
    if row["left"]:
        some = "; ".join(row["left"][:3]) + ("; …" if len(row["left"]) > 3 else "")
        yield _note("left", "info", f"left to do: {some}")


# --- speed -----------------------------------------------------------------------------------------------------------


def _speed(probe: Row, kinds: Mapping[Any, Row], slow: Sequence[Row]) -> Row:
    """Return the product that a host is shown by: its GPUs' rates, and what was expected of each."""
    dtype = next((name for name in SHOWN if any(_product(gpu, name) for gpu in probe["gpus"])), None)
    if dtype is None:
        return _cpu_speed(probe)
    gpus, basis = [], None
    for gpu in probe["gpus"]:
        product = _product(gpu, dtype) or {}
        value = (product.get("tflops") or {}).get("sustained")
        kind = kinds.get(kind_of(gpu))
        expected = product.get("expected_tflops")
        if expected is not None:
            basis = "reference"
        elif kind and kind["count"] > 1:
            expected, basis = kind["medians"].get(f"matmul.{dtype}"), basis or "equals"
        status = _worst([gpu["status"], *(found["status"] for found in slow if found["gpu"] == gpu["index"])])
        ratio = round(value / expected, 4) if value and expected else None
        gpus.append({"index": gpu["index"], "value": value, "expected": expected, "ratio": ratio, "status": status})
    ratios = [gpu["ratio"] for gpu in gpus if gpu["ratio"] is not None]
    return {
        "dtype": dtype,
        "unit": "TFLOP/s",
        "value": _sum(gpu["value"] for gpu in gpus),
        "expected": _sum(gpu["expected"] for gpu in gpus),
        "ratio": min(ratios, default=None),
        "basis": basis,
        "gpus": gpus,
    }


def _product(gpu: Row, dtype: str) -> Row | None:
    """Return the row of a dtype; of two modes the one that is compared, alone."""
    rows = [row for row in gpu["matmul"] if row["dtype"] == dtype and row["tflops"]["sustained"] is not None]
    return next((row for row in rows if row["mode"] == "alone"), rows[0] if rows else None)


def _cpu_speed(probe: Row) -> Row:
    rows = {row["dtype"]: row["gflops"]["sustained"] for row in (probe["cpu"]["matmul"])}
    dtype = next((name for name in ("fp32", "bf16") if rows.get(name)), None)
    blank = dict.fromkeys(("dtype", "unit", "value", "expected", "ratio", "basis"))
    return {**blank, "gpus": []} | ({"dtype": dtype, "unit": "GFLOP/s", "value": rows[dtype]} if dtype else {})


def _sum(values: Iterator[float | None]) -> float | None:
    found = list(values)
    return round(sum(value for value in found if value), 3) if any(found) and None not in found else None


# --- small things ----------------------------------------------------------------------------------------------------


def _worst(statuses: Any) -> str:
    return max((status for status in statuses if status in ORDER), key=ORDER.index, default="pass")


def _as_probe(status: str) -> str:
    """Return the probe's word for a status that only a fleet has."""
    return {"unreachable": "error", "no_record": "skipped", "unknown": "skipped"}.get(status, status)


def _words(status: str) -> str:
    return status.replace("_", " ")


def _moment(text: str | None) -> datetime.datetime | None:
    try:
        return datetime.datetime.strptime(text or "", "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return None


def _age(time: str | None, now: str) -> float | None:
    """Return the days since a record was written; facts have their time with an offset."""
    then, until = (_moment(str(text).replace("+00:00", "Z")) for text in (time, now))
    if then is None or until is None:
        return None
    return round(max(0.0, (until - then).total_seconds()) / 86400, 2)
