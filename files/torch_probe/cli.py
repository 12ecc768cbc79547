"""The command line."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from torch_probe import beside, flags, judge, selftest, simulate
from torch_probe.checks import CATALOGUE, GPU_DTYPES
from torch_probe.common import EXIT_CANNOT_RUN, EXIT_OK, TOOL, VERSION, first_line
from torch_probe.facts import Roots
from torch_probe.output import Outputs, assemble, finish, publish
from torch_probe.plan import PROFILES, SOAK_SECONDS, Wishes, default_timeout, step_names, unknown_steps
from torch_probe.report import Check, schema
from torch_probe.run import Options, Run, UsageError
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


def _names(text: str) -> tuple[str, ...]:
    return () if text in ("all", "auto") else tuple(part.strip() for part in text.split(",") if part.strip())


def parser() -> argparse.ArgumentParser:
    """The options. Exit code 2 on a wrong one is argparse's own."""
    top = argparse.ArgumentParser(
        TOOL,
        description="Does this host compute with torch, and right? Reads only; never changes a GPU's state.",
        epilog="Exit codes: 0 pass, warn or skipped; 1 fail; 2 could not run; 130, 143 stopped by SIGINT, SIGTERM.",
    )
    top.add_argument(
        "--profile",
        choices=PROFILES,
        default="quick",
        help="quick: 15 s, after every change of the host (default); standard: 75 s, acceptance; soak: --duration",
    )
    top.add_argument("--require-gpu", action="store_true", help="no NVIDIA GPU is a failure")
    top.add_argument("--expect-gpus", type=_count, metavar="N", help="another number of NVIDIA GPUs is a failure")
    top.add_argument(
        "--timeout",
        type=_duration,
        metavar="S",
        help="seconds for the whole run (default: 180, standard 600, soak its duration and 900)",
    )
    wishes = top.add_argument_group("what is measured")
    wishes.add_argument(
        "--duration", type=_duration, default=SOAK_SECONDS, metavar="S", help="how long to soak (default: 300)"
    )
    wishes.add_argument(
        "--gpus", type=_names, default=(), metavar="GPU,...", help="UUIDs, PCI addresses or numbers (default: all)"
    )
    wishes.add_argument(
        "--dtypes", type=_names, default=(), metavar="DTYPE,...", help=f"of {', '.join(GPU_DTYPES)} (default: auto)"
    )
    wishes.add_argument(
        "--checks", type=_names, default=(), metavar="+NAME,-NAME", help="steps to add or to leave out, as -p2p,+nccl"
    )
    passes = wishes.add_mutually_exclusive_group()
    passes.add_argument("--together-only", action="store_true", help="no pass of each GPU by itself")
    passes.add_argument("--alone-only", action="store_true", help="GPU after GPU, never together")
    wishes.add_argument("--serials", action="store_true", help="serial numbers in the report")
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
    top.add_argument("--stand-in", action="store_true", help=argparse.SUPPRESS)
    return top


def wishes_of(arguments: argparse.Namespace, top: argparse.ArgumentParser) -> Wishes:
    """The plan's part of the command line."""
    for dtype in arguments.dtypes:
        if dtype not in GPU_DTYPES:
            top.error(f"--dtypes {dtype}: is none of {', '.join(GPU_DTYPES)}")
    for name in arguments.checks:
        if name[0] not in "+-":
            top.error(f"--checks {name}: say +{name} to add it or -{name} to leave it out")
    unknown = unknown_steps([name[1:] for name in arguments.checks])
    if unknown:
        top.error(f"--checks {unknown[0]}: no such step; there are {', '.join(step_names())}")
    return Wishes(
        profile=arguments.profile,
        duration=arguments.duration,
        dtypes=arguments.dtypes,
        add=frozenset(name[1:] for name in arguments.checks if name[0] == "+"),
        drop=frozenset(name[1:] for name in arguments.checks if name[0] == "-"),
        alone=not arguments.together_only,
        together=not arguments.alone_only,
        size=256 if arguments.stand_in else None,
    )


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
    if arguments.beside:
        there = beside.probe(arguments.beside, ["--profile", recording.profile], arguments.timeout or 60.0)
        recording.look.append(beside.compare({**verdict, "gpus": recording.measured["gpus"]}, there))
        verdict = judge.verdict(recording.measured, recording.look, rules)
    tool = {"name": TOOL, "version": VERSION, "profile": recording.profile, "args": list(argv)}
    started = recording.document.get("started_at") or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    seconds = float(recording.document.get("duration_s") or 0.0)
    return publish(assemble(recording.measured, verdict, outputs, tool, started, seconds), outputs)


def probe_beside(run: Run, arguments: argparse.Namespace) -> Check:
    """The same probe in another place, with what is left of the time."""
    left = max(1.0, run.start + run.options.timeout - time.monotonic() - 2.0)
    here = {**judge.verdict(run.measured(), run.look, run.options.rules), "gpus": run.gpus}
    options = ["--profile", arguments.profile, "--timeout", f"{left:.0f}"]
    options += ["--pending-reboot"] if arguments.pending_reboot else []
    return beside.compare(here, beside.probe(arguments.beside, options, left))


def main(argv: Sequence[str]) -> int:
    """Run the probe with these arguments (without the program's name) and return its exit code."""
    top = parser()
    arguments = top.parse_args(argv)
    if inform(arguments, top):
        return EXIT_OK
    rules, outputs = flags.rules(arguments, top, arguments.profile), flags.outputs(arguments, top)
    if arguments.simulate:
        return judge_recording(arguments, top, outputs, argv)
    options = Options(
        profile=arguments.profile,
        outputs=outputs,
        require_gpu=arguments.require_gpu,
        expect_gpus=arguments.expect_gpus,
        timeout=arguments.timeout or default_timeout(arguments.profile, arguments.duration),
        rules=rules,
        pending_reboot=arguments.pending_reboot,
        verbose=arguments.verbose,
        roots=Roots(arguments.sysfs_root, arguments.proc_root, arguments.dev_root),
        argv=tuple(argv),
        wishes=wishes_of(arguments, top),
        gpus=arguments.gpus,
        serials=arguments.serials,
        stand_in=arguments.stand_in,
    )
    if arguments.self_test:
        return selftest.main(options)
    run = Run(options)
    with Watch(run) as watch:
        try:
            run.execute()
            if arguments.beside:
                run.progress("probing by --beside")
                run.look.append(probe_beside(run, arguments))
        except UsageError as error:
            watch.over.set()
            top.error(str(error))
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
