"""What a run becomes, and where it is written."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_probe import history, judge
from torch_probe.common import EXIT_OK, SCHEMA_VERSION, TOOL, VERSION
from torch_probe.render_github import render_github
from torch_probe.render_html import render_html
from torch_probe.render_junit import render_junit
from torch_probe.render_prometheus import render_prometheus
from torch_probe.render_text import render_text
from torch_probe.report import Measured

if TYPE_CHECKING:
    from torch_probe.run import Run


@dataclass(frozen=True)
class Outputs:
    """Where the report goes, and what the exit code says."""

    json: str | None = None
    junit: Path | None = None
    prometheus: Path | None = None
    html: Path | None = None
    format: str = "text"
    exit_style: str = "simple"
    skip_exit_code: int = EXIT_OK
    baseline: Path | None = None
    update_baseline: str = "never"

    def exit_code(self, status: str, code: int) -> int:
        """The verdict's code in the wished style. Nagios knows OK, WARNING, CRITICAL and UNKNOWN."""
        if status == "skipped" and code == EXIT_OK:
            return self.skip_exit_code
        if self.exit_style == "nagios":
            return {"warn": 1, "pending_reboot": 1, "fail": 2, "error": 3}.get(status, EXIT_OK)
        return code


def build_report(run: Run, exit_code: int | None = None) -> dict[str, Any]:
    """The whole report. A given exit code (a signal's) replaces the verdict's."""
    verdict = judge.verdict(run.measured(), run.look, run.options.rules)
    tool = {"name": TOOL, "version": VERSION, "profile": run.options.profile, "args": list(run.options.argv)}
    started = run.started_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    seconds = round(time.monotonic() - run.start, 2)
    return assemble(run.measured(), verdict, run.options.outputs, tool, started, seconds, exit_code)


def assemble(
    measured: Measured,
    verdict: dict[str, Any],
    outputs: Outputs,
    tool: dict[str, Any],
    started_at: str,
    duration_s: float,
    exit_code: int | None = None,
) -> dict[str, Any]:
    """Data and verdict as one report."""
    code = outputs.exit_code(verdict["status"], verdict["exit_code"]) if exit_code is None else exit_code
    checks = [dataclasses.asdict(check) for check in verdict["checks"]]
    head = {"schema_version": SCHEMA_VERSION, "tool": tool, "started_at": started_at, "duration_s": duration_s}
    return {**head, **verdict, "exit_code": code, **measured, "checks": checks}


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never half of it, also after a power cut."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


def finish(run: Run, exit_code: int | None = None) -> int:
    """Write the report where it was asked for and return the exit code."""
    return publish(build_report(run, exit_code), run.options.outputs)


def publish(report: dict[str, Any], outputs: Outputs) -> int:
    """Every rendering that was asked for, and the history."""
    document = json.dumps(report, indent=2, allow_nan=False) + "\n"
    to_stdout = outputs.json == "-" or outputs.format == "json"
    if outputs.json not in (None, "-"):
        write_atomically(Path(str(outputs.json)), document)
    for path, render in (
        (outputs.junit, render_junit),
        (outputs.prometheus, render_prometheus),
        (outputs.html, render_html),
    ):
        if path is not None:
            write_atomically(path, render(report))
    if outputs.baseline:
        problem = history.update(outputs.baseline, outputs.update_baseline, report, write_atomically)
        if problem:
            print(f"{TOOL}: the history was not written: {problem}", file=sys.stderr)
    if to_stdout:
        sys.stdout.write(document)
    if outputs.format in ("text", "github"):
        render_screen = render_text if outputs.format == "text" else render_github
        print(render_screen(report), file=sys.stderr if to_stdout else sys.stdout)
    sys.stdout.flush()
    return int(report["exit_code"])
