"""The command line."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from torch_probe import flags, judge, measure, simulate
from torch_probe.checks import CATALOGUE
from torch_probe.common import EXIT_CANNOT_RUN, EXIT_OK, TOOL, VERSION, first_line
from torch_probe.facts import Roots
from torch_probe.output import Outputs, assemble, finish, publish
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
    top.add_argument("--require-gpu", action="store_true", help="no NVIDIA GPU is a failure")
    top.add_argument("--expect-gpus", type=_count, metavar="N", help="another number of NVIDIA GPUs is a failure")
    top.add_argument(
        "--timeout", type=_duration, metavar="S", help="seconds for the whole run (default: 180, standard 600)"
    )
    top.add_argument(
        "--pending-reboot",
        action="store_true",
        help="a reboot is due: report what it cures as pending_reboot, measure the CPU",
    )
    top.add_argument("--verbose", action="store_true", help="progress on standard error also when it is no terminal")
    top.add_argument("--schema", action="store_true", help="print the JSON Schema of the report")
    top.add_argument("--list-checks", action="store_true", help="print every check id")
    top.add_argument("--explain", metavar="CHECK", help="say what a check is")
    flags.add(top)
    top.add_argument("--version", action="version", version=f"{TOOL} {VERSION}")
    for name, default in (("--sysfs-root", "/sys"), ("--proc-root", "/proc"), ("--dev-root", "/dev")):
        top.add_argument(name, type=Path, default=Path(default), help=argparse.SUPPRESS)
    return top


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


def judge_recording(
    arguments: argparse.Namespace, top: argparse.ArgumentParser, outputs: Outputs, argv: Sequence[str]
) -> int:
    """The whole verdict path on what was recorded elsewhere, in the profile that it was recorded with."""
    try:
        recording = simulate.read(arguments.simulate)
    except simulate.RecordingError as error:
        top.error(str(error))
    recording.expect(arguments.require_gpu, arguments.expect_gpus)
    rules = flags.rules(arguments, top, recording.profile)
    verdict = judge.verdict(recording.measured, recording.look, rules)
    tool = {"name": TOOL, "version": VERSION, "profile": recording.profile, "args": list(argv)}
    started = recording.document.get("started_at") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    seconds = float(recording.document.get("duration_s") or 0.0)
    return publish(assemble(recording.measured, verdict, outputs, tool, started, seconds), outputs)


def main(argv: Sequence[str]) -> int:
    """Run the probe with these arguments (without the program's name) and return its exit code."""
    top = parser()
    arguments = top.parse_args(argv)
    if inform(arguments, top):
        return EXIT_OK
    rules, outputs = flags.rules(arguments, top, arguments.profile), flags.outputs(arguments, top)
    if arguments.simulate:
        return judge_recording(arguments, top, outputs, argv)
    run = Run(
        Options(
            profile=arguments.profile,
            outputs=outputs,
            require_gpu=arguments.require_gpu,
            expect_gpus=arguments.expect_gpus,
            timeout=arguments.timeout or measure.DEFAULT_TIMEOUT[arguments.profile],
            rules=rules,
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
