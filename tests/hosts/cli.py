"""The verbs."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence

from hosts import engine, images, mirror, vm
from hosts.common import HostsError, alone, cache, fail, say

DEFAULT_RELEASE = "debian13"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hosts", description="Test hosts without a container registry.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="make everything a scenario needs; does nothing when it is all there")
    up.add_argument("--release", nargs="+", metavar="NAME", help=f"any of {', '.join(images.RELEASES)}")
    down = verbs.add_parser("down", help="remove all test hosts, the mirror and the network; the caches stay")
    down.add_argument("--images", action="store_true", help="the images too")
    machine = verbs.add_parser("vm", help="a virtual machine with a kernel of its own, for tests that start it again")
    machine.add_argument("action", choices=("up", "down"))
    verbs.add_parser("status", help="say what is there")
    return parser


def up(names: Sequence[str] | None) -> None:
    """Make sure that an engine answers and that the images, the network and the mirror are there."""
    start = time.monotonic()
    releases = images.parse_releases(names or [os.environ.get("GPUFLEET_TEST_RELEASE") or DEFAULT_RELEASE])
    with alone():
        engine.up()
        for release in releases:
            images.up(release)
        engine.network()
        mirror.up()
    say(f"ready for {', '.join(release.name for release in releases)} in {time.monotonic() - start:.1f} s")


def virtual_machine(action: str) -> None:
    """Start a fresh virtual machine beside the mirror, or stop it."""
    if action == "down":
        vm.down()
        return
    name = os.environ.get("GPUFLEET_TEST_RELEASE") or DEFAULT_RELEASE
    up([name])
    vm.up(images.RELEASES[name])


def down(with_images: bool) -> None:
    """Remove what `up` made in the engine."""
    with alone():
        for container in (engine.try_docker("ps", "-aq", "--filter", "label=gpufleet-test") or "").split():
            engine.docker("rm", "-f", "-v", container)
        engine.try_docker("network", "rm", engine.NETWORK)
        if with_images:
            tags = (engine.try_docker("images", "-q", "gpufleet-test/*") or "").split()
            if tags:
                engine.docker("rmi", "-f", *dict.fromkeys(tags))
    say(f"removed; the cache {cache()} stays")


def status() -> None:
    """Say what is there, without making anything."""
    say(f"cache {cache()}")
    say(f"engine {engine.docker('version', '-f', '{{.Server.Version}}').strip()} by {engine.client()}")
    say(f"network {'there' if engine.try_docker('network', 'inspect', engine.NETWORK) else 'missing'}")
    for release in images.RELEASES.values():
        found = engine.try_docker("image", "inspect", "-f", "{{.Id}}", release.current)
        say(f"{release.current} {found or 'missing'}")


def main(arguments: Sequence[str]) -> int:
    """Run one verb and return the exit status."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.verb == "up":
            up(asked.release)
        elif asked.verb == "vm":
            virtual_machine(asked.action)
        elif asked.verb == "down":
            down(asked.images)
        else:
            status()
    except HostsError as error:
        return fail(error)
    return 0
