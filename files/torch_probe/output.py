"""What a run becomes, and where it is written."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from torch_probe import judge
from torch_probe.common import SCHEMA_VERSION, TOOL, VERSION
from torch_probe.render_text import render_text
from torch_probe.run import Run


def build_report(run: Run, exit_code: int | None = None) -> dict[str, Any]:
    """The whole report. A given exit code (a signal's) replaces the verdict's."""
    measured = run.measured()
    verdict = judge.verdict(measured, run.look, run.options.rules)
    checks = [dataclasses.asdict(check) for check in verdict["checks"]]
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": TOOL, "version": VERSION, "profile": run.options.profile, "args": list(run.options.argv)},
        "started_at": run.started_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "duration_s": round(time.monotonic() - run.start, 2),
        "status": verdict["status"],
        "exit_code": verdict["exit_code"] if exit_code is None else exit_code,
        "summary": verdict["summary"],
        "policy": verdict["policy"],
        "reference": verdict["reference"],
        **measured,
        "checks": checks,
    }


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
    report = build_report(run, exit_code)
    options = run.options
    document = json.dumps(report, indent=2, allow_nan=False) + "\n"
    to_stdout = options.json == "-" or options.format == "json"
    if options.json not in (None, "-"):
        write_atomically(Path(str(options.json)), document)
    if to_stdout:
        sys.stdout.write(document)
    if options.format == "text":
        print(render_text(report), file=sys.stderr if to_stdout else sys.stdout)
    sys.stdout.flush()
    return int(report["exit_code"])
