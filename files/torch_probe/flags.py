"""The options of the judging: what the data are held against, and where the report goes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from torch_probe import history, policy, reference
from torch_probe.common import EXIT_OK
from torch_probe.judge import Rules
from torch_probe.output import Outputs


def add(top: argparse.ArgumentParser) -> None:
    """Add them to the command line."""
    rules = top.add_argument_group("what the data are held against")
    rules.add_argument(
        "--reference", type=Path, metavar="FILE", help="reference data of your own, in place of the built-in"
    )
    rules.add_argument("--no-reference", action="store_true", help="judge by equal GPUs and by the past only")
    rules.add_argument(
        "--policy", type=Path, metavar="FILE", help="thresholds of your own; those it does not name stay"
    )
    rules.add_argument("--set", action="append", default=[], metavar="NAME=N", help="one threshold, as warn.peers=0.05")
    rules.add_argument("--baseline", type=Path, metavar="FILE", help="the history of these GPUs")
    rules.add_argument(
        "--update-baseline",
        choices=("never", "if-missing", "on-pass"),
        default="never",
        help="add GPUs that pass to the history: never, only their first pass, every pass (default: never)",
    )
    help_beside = "start the probe by this command too, as in a container, and compare; its options follow the command"
    rules.add_argument("--beside", metavar="COMMAND", help=help_beside)
    rules.add_argument("--strict", action="store_true", help="warnings, unknowns and what did not run are failures")
    out = top.add_argument_group("where the report goes")
    out.add_argument("--json", metavar="FILE", help="write the report as JSON to FILE, - for standard output")
    out.add_argument("--junit", type=Path, metavar="FILE", help="write it as JUnit XML")
    out.add_argument("--prometheus", type=Path, metavar="FILE", help="write it for node_exporter's textfile collector")
    out.add_argument("--html", type=Path, metavar="FILE", help="write it as one HTML file")
    formats = ("text", "json", "github", "none")
    out.add_argument("--format", choices=formats, default="text", help="what to print (default: text)")
    styles = "simple: 0 pass, warn, skipped, 1 fail, 2 could not run; nagios: 0, 1 warn, 2 fail, 3 could not run"
    out.add_argument("--exit-style", choices=("simple", "nagios"), default="simple", help=styles)
    out.add_argument("--skip-exit-code", type=int, default=EXIT_OK, metavar="N", help="exit code where all was skipped")
    out.add_argument("--self-test", action="store_true", help="plant faults into measurements here: are they noticed?")
    out.add_argument("--simulate", type=Path, metavar="FILE", help="judge this recorded report, measure nothing")


def rules(arguments: argparse.Namespace, top: argparse.ArgumentParser, profile: str) -> Rules:
    """What to judge by; a file that is wrong is a usage error, before anything is measured."""
    try:
        thresholds = policy.load(arguments.policy, arguments.set)
        table = None if arguments.no_reference else reference.load(arguments.reference)
    except policy.PolicyError as error:
        top.error(str(error))
    except (OSError, ValueError, KeyError) as error:
        top.error(f"--reference {arguments.reference}: {error}")
    if arguments.update_baseline != "never" and not arguments.baseline:
        top.error("--update-baseline needs --baseline FILE")
    past = history.load(arguments.baseline) if arguments.baseline else history.History()
    return Rules(thresholds, table, past, arguments.strict, profile)


def outputs(arguments: argparse.Namespace, top: argparse.ArgumentParser) -> Outputs:
    """Where to write; a report that cannot be written is found before the measurement, not after it."""
    for name in ("json", "junit", "prometheus", "html"):
        _check_path(top, f"--{name}", getattr(arguments, name))
    if arguments.update_baseline != "never":
        _check_path(top, "--baseline", arguments.baseline)
    if not 0 <= arguments.skip_exit_code <= 255:
        top.error(f"--skip-exit-code {arguments.skip_exit_code}: is none of 0 to 255")
    return Outputs(
        arguments.json,
        arguments.junit,
        arguments.prometheus,
        arguments.html,
        arguments.format,
        arguments.exit_style,
        arguments.skip_exit_code,
        arguments.baseline,
        arguments.update_baseline,
    )


def _check_path(top: argparse.ArgumentParser, option: str, target: str | Path | None) -> None:
    if target is None or str(target) == "-":
        return
    path = Path(target)
    if path.is_dir():
        top.error(f"{option} {target}: is a directory; name a file")
    if not path.parent.is_dir():
        top.error(f"{option} {target}: the directory {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        top.error(f"{option} {target}: the directory {path.parent} is not writable for this user")
