"""The report as one HTML file: nothing is fetched, light and dark, readable on paper."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch_probe.render_text import cause_text, limit_text, problems

Record = Mapping[str, Any]

STYLE = """
:root { color-scheme: light dark; --page: #fff; --card: #f6f7f9; --text: #1a1d21; --quiet: #5b6470; --line: #dde1e6;
  --pass: #1a7f37; --warn: #9a6700; --fail: #c4242b; --info: #3b6ea8; --bar: #c9d3df; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2127; --text: #e6e9ed; --quiet: #9aa4b0;
  --line: #323842; --pass: #4cc46a; --warn: #e0b040; --fail: #ff7b72; --info: #7fb0ea; --bar: #3a4452; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 90rem; padding: 1.5rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 .25rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; } .quiet { color: var(--quiet); }
.verdict { border-left: .4rem solid var(--c); background: var(--card); padding: .8rem 1rem; margin: 1rem 0; }
.badge { color: var(--c); font-weight: 700; text-transform: uppercase; white-space: nowrap; }
.pass { --c: var(--pass); } .warn, .pending_reboot, .unknown { --c: var(--warn); } .fail, .error { --c: var(--fail); }
.info, .explained, .skipped, .not_run { --c: var(--info); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--quiet); font-weight: 600; } td.n { text-align: right; } .gpus td, th { white-space: nowrap; }
.gpus { font-size: .85rem; } .gpus td, .gpus th { padding: .3rem .45rem; } .gpus code { font-size: .75rem; }
.bar { display: inline-block; width: 4rem; height: .6rem; background: var(--bar); border-radius: .3rem; }
.bar { overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--c); }
article { background: var(--card); border-left: .3rem solid var(--c); padding: .6rem 1rem; margin: .5rem 0; }
code { font-size: .92em; overflow-wrap: anywhere; } summary { cursor: pointer; margin: 1rem 0 .5rem; }
"""


def render_html(report: Record) -> str:
    """The whole page."""
    host, software, tool = report["host"], report["software"], report["tool"]
    title = f"{report['status'].upper()}: {host['hostname'] or 'this host'}"
    facts = [
        f"torch {software['torch']}" if software["torch"] else None,
        f"CUDA {software['torch_cuda']}" if software["torch_cuda"] else None,
        f"driver {software['driver']}" if software["driver"] else None,
        host["os"],
        f"profile {tool['profile']}",
        f"{report['started_at']}, {report['duration_s']:.1f} s",
    ]
    body = "\n".join(
        [
            f"<h1>{_e(host['hostname'] or 'this host')}</h1>",
            f'<p class="quiet">{_e(" · ".join(str(fact) for fact in facts if fact))}</p>',
            f'<div class="verdict {report["status"]}"><span class="badge">{_e(report["status"])}</span> '
            f"{_e(report['summary'])}</div>",
            *_problems(report["checks"]),
            *_gpu_table(report["gpus"]),
            *_cpu_table(report["cpu"]),
            *_all_checks(report),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_e(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _e(value: object) -> str:
    return html.escape("" if value is None else str(value))


def _number(value: object, unit: str = "", digits: int = 4) -> str:
    return f"{value:.{digits}g}{unit}" if isinstance(value, (int, float)) else "-"


def _gpu_table(gpus: Sequence[Record]) -> Iterator[str]:
    if not gpus:
        return
    yield '<h2>GPUs</h2><div class="wide"><table class="gpus"><tr><th>GPU</th><th>verdict</th><th>product</th>'
    yield "<th>TFLOP/s</th><th>of expected</th><th>of equals</th><th>of its past</th><th>efficiency</th>"
    yield "<th>clock</th><th>power</th><th>heat</th></tr>"
    for gpu in gpus:
        rows = gpu["matmul"] or [None]
        for place, row in enumerate(rows):
            name = f"<b>{gpu['index']}</b> {_e(gpu['name'])}<br><code class='quiet'>{_e(gpu['uuid'])}</code>"
            first = f'<td rowspan="{len(rows)}">{name}</td>' if place == 0 else ""
            status = f'<td rowspan="{len(rows)}">{_badge(gpu["status"])}</td>' if place == 0 else ""
            yield f"<tr>{first}{status}{_product_cells(row)}</tr>"
    yield "</table></div>"


def _product_cells(row: Record | None) -> str:
    if row is None:
        return '<td class="quiet" colspan="9">not measured</td>'
    window, ratio = row["window"] or {}, row["ratio"] or {}
    clock = (window.get("sm_clock_mhz") or {}).get("mean")
    return "".join(
        [
            f"<td>{_e(row['dtype'])} <span class='quiet'>{_e(row['mode'])}</span></td>",
            f'<td class="n">{_number(row["tflops"]["sustained"])}</td>',
            *(f"<td>{_bar(ratio.get(name), row['status'])}</td>" for name in ("reference", "peers", "history")),
            f'<td class="n">{_share(row["efficiency_at_clock"])}</td>',
            f'<td class="n">{_number(clock, " MHz")}</td>',
            f'<td class="n">{_number(window.get("power_w"), " W", 3)}</td>',
            f'<td class="n">{_number((window.get("temp_c") or {}).get("max"), " °C", 3)}</td>',
        ]
    )


def _share(value: object) -> str:
    return f"{value:.0%}" if isinstance(value, (int, float)) else "-"


def _bar(value: object, status: str) -> str:
    if not isinstance(value, (int, float)):
        return '<span class="quiet">-</span>'
    width = max(0.0, min(1.0, value)) * 100
    return f'<span class="bar {status}"><i style="width:{width:.0f}%"></i></span> {value:.0%}'


def _cpu_table(cpu: Record | None) -> Iterator[str]:
    if not cpu or not cpu["matmul"]:
        return
    yield f'<h2>CPU</h2><p class="quiet">{cpu["threads"]} threads</p><table><tr><th>product</th><th>GFLOP/s</th></tr>'
    for row in cpu["matmul"]:
        yield f"<tr><td>{_e(row['dtype'])}</td><td>{_number(row['gflops']['sustained'])}</td></tr>"
    yield "</table>"


def _problems(checks: Sequence[Record]) -> Iterator[str]:
    found = problems(checks)
    if found:
        yield "<h2>Problems</h2>"
    for check in found:
        why = "; ".join(words for words in (limit_text(check), cause_text(check)) if words)
        yield f'<article class="{check["status"]}">{_badge(check["status"])} <code>{_e(check["id"])}</code>'
        yield f"<p>{_e(check['message'])}</p>" + (f'<p class="quiet">{_e(why)}</p>' if why else "")
        yield f"<p>{_e(check['remedy'])}</p></article>"


def _all_checks(report: Record) -> Iterator[str]:
    checks = report["checks"]
    indices = {gpu["uuid"] or gpu["pci_bus_id"] or str(gpu["index"]): gpu["index"] for gpu in report["gpus"]}
    yield f"<details><summary>All {len(checks)} checks</summary><div class='wide'><table>"
    yield "<tr><th>check</th><th>GPU</th><th>verdict</th><th></th></tr>"
    for check in checks:
        gpu = indices.get(check["gpu"], check["gpu"])
        cells = (f"<code>{_e(check['id'])}</code>", _e(gpu), _badge(check["status"]), _e(check["message"]))
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    yield "</table></div></details>"


def _badge(status: str) -> str:
    return f'<span class="badge {_e(status)}">{_e(status.replace("_", " "))}</span>'
