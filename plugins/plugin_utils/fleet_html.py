# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The fleet's report as one HTML file that fetches nothing.

Everything that comes from a host is text: Jinja escapes it in the page, ``tojson`` in the data, and the script puts it
into the page as text only. Should that fail one day, the page's policy runs no script and no style but its own.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
from ansible_collections.gpufleet.host.plugins.plugin_utils.fleet import ORDER

TEMPLATE = Path(__file__).resolve().parents[2] / "playbooks" / "templates" / "fleet.html.j2"
# Not by colour alone.
SIGNS = {
    "fail": "✕",
    "error": "✕",
    "unreachable": "⊘",
    "warn": "!",
    "pending_reboot": "↻",
    "no_record": "?",
    "unknown": "?",
    "skipped": "-",
    "explained": "i",
    "info": "i",
    "not_run": "-",
    "pass": "✓",
}
_COLUMN, _HEIGHT, _FULL = 9, 26, 22  # of the little columns: what 100 % of the expectation is

Row = dict[str, Any]


def render_html(fleet: Row) -> str:
    """Return the page: the hosts in its order of concern, the details of each as data for the script."""
    hosts = sorted(fleet["hosts"], key=lambda host: (-ORDER.index(host["status"]), host["name"]))
    kinds = Counter(kind for host in hosts for kind in {note["kind"] for note in host["notes"]})
    return _template().render(
        fleet=fleet,
        hosts=hosts,
        details=[details_of(host) for host in hosts],
        columns=columns_of,
        gpus_of=gpus_of,
        tags_of=tags_of,
        kinds={
            kind: kinds[kind] for kind in ("straggler", "drift", "left", "reboot", "upgrade", "stale") if kinds[kind]
        },
        share=share_of(fleet["counts"]),
        gpu_count=sum(len(host["probe"]["gpus"]) for host in hosts),
        signs=SIGNS,
        rank={status: place for place, status in enumerate(ORDER)},
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(csp_hash=csp_hash, words=words, number=number, percent=percent, age=age_text)
    return environment.get_template(TEMPLATE.name)


def csp_hash(text: str) -> str:
    """Return the source expression that allows exactly this script or style."""
    digest = hashlib.sha256(str(text).encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def words(status: str) -> str:
    """Return a status for a person."""
    return status.replace("_", " ")


def number(value: float | None, digits: int = 4) -> str:
    """Return a number for a person; large ones without an exponent."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """Return a share for a person."""
    return "-" if value is None else f"{100 * value:.0f} %"


def age_text(days: float | None) -> str:
    """Return an age for a person."""
    if days is None:
        return "-"
    if days < 1 / 24:
        return f"{days * 1440:.0f} min"
    return f"{days * 24:.0f} h" if days < 2 else f"{days:.0f} d"


def gpus_of(host: Row) -> str:
    """Return `8 x H100 80GB HBM3`."""
    names = Counter(str(gpu["name"] or "unknown GPU").replace("NVIDIA ", "") for gpu in host["probe"]["gpus"])
    count = host["system"]["gpus"]
    if not names:
        return f"{count} x not measured" if count else "no GPU" if host["state"] == "ok" else ""
    return ", ".join(f"{number} x {name}" for name, number in names.items())


def share_of(counts: dict[str, int]) -> list[Row]:
    """Return the strip of verdicts: each with its place and width of 1000; the smallest can still be seen."""
    total = sum(counts.values()) or 1
    widths = {status: max(6.0, 1000 * count / total) for status, count in counts.items()}
    scale, place, strip = 1000 / (sum(widths.values()) or 1), 0.0, []
    for status, count in counts.items():
        width = widths[status] * scale
        strip.append({"status": status, "count": count, "x": round(place, 1), "width": round(width - 2, 1)})
        place += width
    return strip


def columns_of(host: Row) -> Row:
    """Return one little column a GPU, as high as its share of what was expected; at most 110 %.

    One path for all columns of a status: a thousand hosts of eight GPUs are then a thousand shapes for the browser.
    """
    paths: dict[str, list[str]] = {}
    for place, gpu in enumerate(host["speed"]["gpus"]):
        if gpu["ratio"] is None:
            continue
        height = max(1.5, min(1.1, gpu["ratio"]) * _FULL)
        status = gpu["status"] if gpu["status"] in SIGNS else "unknown"
        x, top = place * _COLUMN, _HEIGHT - height
        paths.setdefault(status, []).append(f"M{x} {_HEIGHT}v-{height:.1f}h7v{height:.1f}z")
        if status in ("fail", "error", "warn"):  # bars across: to be seen without colour
            paths.setdefault("mark", []).append(f"M{x} {top + 2:.1f}h7v2h-7zm0 4h7v2h-7z")
    said = ", ".join(f"GPU {gpu['index']} {percent(gpu['ratio'])}" for gpu in host["speed"]["gpus"])
    width = len(host["speed"]["gpus"]) * _COLUMN
    marks = paths.pop("mark", [])
    shapes = [*paths.items(), *([("mark", marks)] if marks else [])]
    drawn = [(status, "".join(parts)) for status, parts in shapes]
    line = f"M0 {_HEIGHT - _FULL}H{width - 2}"
    return {"paths": drawn, "width": width, "height": _HEIGHT, "line": line, "said": said}


def tags_of(host: Row) -> list[tuple[str, str]]:
    """Return the kinds of what is to know, each with its worst status; the notes are in that order."""
    found: dict[str, str] = {}
    for note in host["notes"]:
        if note["kind"] not in ("problem", "state"):
            found.setdefault(note["kind"], note["status"])
    return list(found.items())


def details_of(host: Row) -> Row:
    """Return what the script shows of a host when it is opened, short: a thousand of them are in the page."""
    probe = host["probe"]
    return {
        "name": host["name"],
        "rank": ORDER.index(host["status"]),
        "ratio": host["speed"]["ratio"],
        "value": host["speed"]["value"],
        "age": host["age_days"],
        "time": host["time"],
        "collection": host["collection"],
        "summary": host["summary"],
        "status": host["status"],
        "system": _system_lines(host),
        "versions": [
            [name, host["versions"]["before"][name], version]
            for name, version in host["versions"]["after"].items()
            if version or host["versions"]["before"][name]
        ],
        "actions": host["actions"],
        "left": host["left"],
        "warnings": host["warnings"],
        "rebooted": host["reboot"]["rebooted"],
        "notes": [
            [note["status"], note["kind"], note["text"], note["remedy"] or "", note["id"]] for note in host["notes"]
        ],
        "gpus": [
            [gpu["index"], gpu["name"], gpu["uuid"] or gpu["pci_bus_id"], gpu["status"], _products(gpu)]
            for gpu in probe["gpus"]
        ],
        "cpu": [[row["dtype"], row["gflops"]["sustained"]] for row in probe["cpu"]["matmul"]],
        "measured": " · ".join(
            text
            for text in (
                f"profile {probe['tool']['profile']}" if probe["tool"]["profile"] else "",
                probe["started_at"] or "",
                f"{probe['duration_s']:.0f} s" if probe["duration_s"] is not None else "",
                probe["path"] or "",
            )
            if text
        ),
    }


def _products(gpu: Row) -> list[list[Any]]:
    return [
        [
            f"{row['dtype']} {row['mode']}",
            row["tflops"]["sustained"],
            row["expected_tflops"],
            row["ratio"]["reference"],
            row["ratio"]["peers"],
            row["ratio"]["history"],
            row["window"]["sm_clock_mhz"]["mean"],
            row["window"]["power_w"],
            row["window"]["temp_c"]["max"],
            row["status"],
        ]
        for row in gpu["matmul"]
    ]


def _system_lines(host: Row) -> list[str]:
    system = host["system"]
    memory = system["memory_bytes"]
    return [
        line
        for line in (
            system["pretty_name"],
            f"kernel {host['versions']['after']['kernel']}" if host["versions"]["after"]["kernel"] else None,
            system["architecture"],
            system["cpu"],
            f"{system['vcpus']} CPUs" if system["vcpus"] else None,
            f"{memory / 2**30:.0f} GiB memory" if memory else None,
            f"virtualization: {system['virtualization']}" if system["virtualization"] not in (None, "none") else None,
        )
        if line
    ]
