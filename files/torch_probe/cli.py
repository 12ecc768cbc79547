"""The command line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from torch_probe import measure
from torch_probe.checks import CATALOGUE
from torch_probe.common import EXIT_CANNOT_RUN, EXIT_OK, TOOL, VERSION, first_line
from torch_probe.facts import Roots
from torch_probe.judge import Rules
from torch_probe.output import finish
from torch_probe.report import schema
from torch_probe.run import Options, Run
from torch_probe.watch import Watch


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def _duration(text: str) -> float:
    value = float(text)
    if not (0 < value < 86400):
        raise ValueError
    return value


_count.__name__, _duration.__name__ = "count (0 or more)", "time in seconds (more than 0)"


def parser() -> argparse.ArgumentParser:
    """The options. Exit code 2 on a wrong one is argparse's own."""
    top = argparse.ArgumentParser(
        TOOL,
        description="Does this host compute with torch, and right? Reads only; never changes a GPU's state.",
        epilog="Exit codes: 0 pass, warn or skipped; 1 fail; 2 could not run; 130, 143 stopped by SIGINT, SIGTERM.",
    )
    top.add_argument(
        "--profile", choices=("quick", "standard"), default="quick", help="how long to measure (default: quick)"
    )
    top.add_argument("--json", metavar="FILE", help="write the report as JSON to FILE, - for standard output")
    top.add_argument("--format", choices=("text", "json", "none"), default="text", help="what to print (default: text)")
    top.add_argument("--require-gpu", action="store_true", help="no NVIDIA GPU is a failure")
    top.add_argument("--expect-gpus", type=_count, metavar="N", help="another number of NVIDIA GPUs is a failure")
    top.add_argument(
        "--timeout", type=_duration, metavar="S", help="seconds for the whole run (default: 180, standard 600)"
    )
    top.add_argument("--strict", action="store_true", help="warnings and unknowns are failures")
    top.add_argument(
        "--pending-reboot",
        action="store_true",
        help="a reboot is due: report what it cures as pending_reboot, measure the CPU",
    )
    top.add_argument("--verbose", action="store_true", help="progress on standard error also when it is no terminal")
    top.add_argument("--schema", action="store_true", help="print the JSON Schema of the report")
    top.add_argument("--list-checks", action="store_true", help="print every check id")
    top.add_argument("--explain", metavar="CHECK", help="say what a check is")
    top.add_argument("--version", action="version", version=f"{TOOL} {VERSION}")
    for name, default in (("--sysfs-root", "/sys"), ("--proc-root", "/proc"), ("--dev-root", "/dev")):
        top.add_argument(name, type=Path, default=Path(default), help=argparse.SUPPRESS)
    return top


def check_output_path(top: argparse.ArgumentParser, target: str | None) -> None:
    """A report that cannot be written is found before the measurement, not after it."""
    if target is None or target == "-":
        return
    path = Path(target)
    if path.is_dir():
        top.error(f"--json {target}: is a directory; name a file")
    if not path.parent.is_dir():
        top.error(f"--json {target}: the directory {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        top.error(f"--json {target}: the directory {path.parent} is not writable for this user")


def inform(arguments: argparse.Namespace, top: argparse.ArgumentParser) -> bool:
    """The verbs that measure nothing; True when one was asked for."""
    if arguments.schema:
        print(json.dumps(schema(list(CATALOGUE)), indent=2))
    elif arguments.list_checks:
        print("\n".join(CATALOGUE))
    elif arguments.explain:
        if arguments.explain not in CATALOGUE:
            top.error(f"--explain {arguments.explain}: no such check; --list-checks names them all")
        print(f"{arguments.explain}: {CATALOGUE[arguments.explain]}")
    else:
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """Run the probe with these arguments (without the program's name) and return its exit code."""
    top = parser()
    arguments = top.parse_args(argv)
    if inform(arguments, top):
        return EXIT_OK
    check_output_path(top, arguments.json)
    run = Run(
        Options(
            profile=arguments.profile,
            json=arguments.json,
            format=arguments.format,
            require_gpu=arguments.require_gpu,
            expect_gpus=arguments.expect_gpus,
            timeout=arguments.timeout or measure.DEFAULT_TIMEOUT[arguments.profile],
            rules=Rules(strict=arguments.strict, profile=arguments.profile),
            pending_reboot=arguments.pending_reboot,
            verbose=arguments.verbose,
            roots=Roots(arguments.sysfs_root, arguments.proc_root, arguments.dev_root),
            argv=tuple(argv),
        )
    )
    with Watch(run) as watch:
        try:
            run.execute()
        except Exception as error:  # the report must be written whatever went wrong in a measurement
            if arguments.verbose:
                traceback.print_exc()
            run.abort(
                "error", f"internal error while {run.phase}: {first_line(error)}", "Please report it, with --verbose."
            )
        with run.lock:
            watch.over.set()
            try:
                return finish(run)
            except OSError as error:  # disk full, a pipe that nobody reads
                print(f"{TOOL}: the report could not be written: {error}", file=sys.stderr)
                return EXIT_CANNOT_RUN
