"""What a run costs, beside what it has to be compared with, on the test hosts: ``./run bench times``.

Times are of the machine that took them, so they are written down and never asserted. The same work is done in turns, so
that a machine that gets slower meanwhile is slower for both, and medians are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml
from hosts import cli, copies, engine, images
from hosts.common import HostsError, cache, say, suffix

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "debian13"
IMAGE = f"gpufleet-test/bench{suffix()}:converged"
PREFIX = f"gpufleet-bench{suffix()}"
_RECAP = re.compile(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Cost:
    """One run of ansible-playbook, as the controller paid for it."""

    wall: float  # seconds
    cpu: float  # seconds, of all its processes
    memory: float  # MiB at the highest, of all its processes together
    changed: int
    modules: float  # executions, a host


def changes(recap: str) -> int:
    """How much a run changed, by its recap.

    Raises:
        HostsError: there is no recap, or a host did not come to its end.
    """
    found = _RECAP.findall(recap)
    bad = [host for host, _changed, unreachable, failed in found if int(unreachable) or int(failed)]
    if bad or not found:
        raise HostsError(f"a run failed on {', '.join(bad) or 'all hosts'}: {recap[-1500:]}")
    return sum(int(changed) for _host, changed, _unreachable, _failed in found)


def children(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += children(int(child))
    return found


def memory(pid: int) -> float:
    """MiB of a process and all below it, what they share counted once."""
    total = 0
    for each in children(pid):
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{each}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total / 1024


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)) + "\n"


def span(values: Sequence[float], digits: int = 1) -> str:
    """The median, and from where to where."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Of the medians."""
    return f"{statistics.median(ours) / statistics.median(theirs):.2f}"


class Bench:
    """The hosts and a place for playbooks; all of it is gone at the end."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.hosts: list[str] = []

    def start(self, image: str, *, nested: bool = False) -> str:
        """Start one more host and return its name."""
        name = f"{PREFIX}-{len(self.hosts)}"
        self.hosts.append(name)
        copies.start(image, name, ["--cap-add", "NET_ADMIN", "--volume", "/var/lib/docker"] if nested else [])
        return name

    def stop(self) -> None:
        """Remove the hosts and what was made of them."""
        copies.remove(self.hosts, IMAGE)

    def playbook(self, name: str, plays: list[dict[str, Any]]) -> Path:
        """Write a playbook."""
        path = self.place / f"{name}.yml"
        path.write_text(yaml.safe_dump(plays, sort_keys=False))
        return path

    def role(self, role: str, **variables: Any) -> Path:
        """Write a playbook of one role, whether it is ours or lies in a directory."""
        plays = [{"hosts": "all", "become": True, "gather_facts": "/" in role, "roles": [{"role": role}]}]
        return self.playbook(Path(role).name, [{**plays[0], "vars": variables}])

    def run(self, playbook: Path, hosts: Sequence[str], *options: str) -> Cost:
        """Run a playbook and weigh it."""
        inventory, count = self.place / "inventory.json", self.place / "count.txt"
        inventory.write_text(json.dumps({"all": {"hosts": {name: {} for name in hosts}, "vars": variables()}}))
        count.write_text("")
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/bench/callback_plugins"),
            "ANSIBLE_CALLBACKS_ENABLED": "module_count",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_NOCOLOR": "1",
            "GPUFLEET_MODULE_COUNT": str(count),
        }
        program = Path(sys.executable).with_name("ansible-playbook")
        command = [str(program), "-i", str(inventory), *options, str(playbook)]
        with (self.place / "log.txt").open("w+") as log:
            begun = time.monotonic()
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            highest, over = [0.0], threading.Event()
            watch = threading.Thread(target=_watch, args=(process.pid, highest, over))
            watch.start()
            # Of the process and of all that it has waited for, which is every worker and what they ran.
            _pid, status, usage = os.wait4(process.pid, 0)
            wall = time.monotonic() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
            over.set()
            watch.join()
            log.seek(0)
            said = log.read()
        executed = [line for line in count.read_text().splitlines() if "\t" in line]
        cpu = usage.ru_utime + usage.ru_stime
        return Cost(wall, cpu, highest[0], changes(said), len(executed) / len(hosts))


def _watch(pid: int, highest: list[float], over: threading.Event) -> None:
    while not over.wait(0.25):
        highest[0] = max(highest[0], memory(pid))


def variables() -> dict[str, Any]:
    """How the hosts are reached and what they wish: the whole site, with small packages in place of torch."""
    made = json.loads((cache() / f"current{suffix()}" / "hosts.json").read_text())
    return {
        "ansible_connection": "community.docker.docker",
        "ansible_python_interpreter": "/usr/bin/python3",
        "gpufleet_users": ["alice", "bob"],
        "gpufleet_ca_certificates": made["ca_certificates"],
        "uv_python_uv_archive_checksums": made["uv_archive_checksums"],
        "uv_python_install_mirror": made["python_install_mirror"],
        "uv_python_downloads_json_url": made["python_downloads_json_url"],
        "uv_python_locks_path": str(ROOT / "molecule/uv_python/locks"),
        "uv_python_groups": ["dev"],
        "uv_python_uv_source": "archive",
        "torch_probe_fail_on": "never",  # there is no torch: the probe's own time is not the controller's
    }


def in_turns(repeats: int, *runs: Callable[[], Cost]) -> list[list[Cost]]:
    """Each of them, one after the other, so many times. None of them may change anything: it would be another work."""
    found: list[list[Cost]] = [[] for _ in runs]
    for _ in range(repeats):
        for costs, run in zip(found, runs):
            costs.append(run())
            if costs[-1].changed:
                raise HostsError(f"a run changed {costs[-1].changed} on a converged host: the times would not compare")
    return found


def compared(names: Sequence[str], costs: Sequence[Sequence[Cost]]) -> str:
    """The first of two works against the second."""
    rows = [
        [name, f"{each[0].modules:.0f}", span([c.wall for c in each]), span([c.cpu for c in each])]
        for name, each in zip(names, costs)
    ]
    ours, theirs = costs
    return table(["", "modules", "wall, s", "controller's CPU, s"], rows) + (
        f"\nRatio of the medians: wall {ratio([c.wall for c in ours], [c.wall for c in theirs])}, "
        f"CPU {ratio([c.cpu for c in ours], [c.cpu for c in theirs])}.\n"
    )


def against_the_floor(bench: Bench, host: str, repeats: int) -> str:
    """The whole site against the least that a run of anything costs."""
    floor = bench.playbook("floor", [{"hosts": "all", "become": True, "gather_facts": True}])
    site = ROOT / "site.yml"
    costs = in_turns(repeats, lambda: bench.run(site, [host]), lambda: bench.run(floor, [host]))
    names = ["`site.yml`, converged", "one connection, one facts module"]
    return "## The whole site against the floor\n\n" + compared(names, costs)


def against_a_peer(bench: Bench, peer: Path, repeats: int) -> str:
    """The second run of docker_engine against that of somebody else's role, each on a host that it has converged."""
    ours, theirs = bench.role("gpufleet.host.docker_engine"), bench.role(str(peer))
    hosts = [bench.start(images.RELEASES[RELEASE].current, nested=True) for _ in range(2)]
    nested = ROOT / "molecule/docker_engine/nested.yml"
    bench.run(nested, hosts)
    for host, playbook in zip(hosts, (ours, theirs)):
        first = bench.run(playbook, [host])
        say(f"{playbook.stem}: first run changed {first.changed} in {first.wall:.0f} s")
    costs = in_turns(repeats, lambda: bench.run(ours, hosts[:1]), lambda: bench.run(theirs, hosts[1:]))
    names = ["`docker_engine`, second run", f"`{shown(peer)}`, second run"]
    return "## An engine that is there, against the role of a peer\n\n" + compared(names, costs)


def shown(path: Path) -> str:
    """A path as the reader of the table knows it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def converged(bench: Bench) -> None:
    """Make the image of a converged host: the site once, on one host, and once more to see that it is true."""
    host = bench.start(images.RELEASES[RELEASE].current)
    engine.docker("exec", host, "sh", "-c", "useradd -m alice && useradd -m bob")
    first = bench.run(ROOT / "site.yml", [host])
    again = bench.run(ROOT / "site.yml", [host])
    say(f"converged: first run changed {first.changed} in {first.wall:.0f} s, the second {again.changed}")
    copies.keep(host, IMAGE)


def fleet(bench: Bench, sizes: Sequence[int], forks: int) -> str:
    """What the controller pays for many converged hosts, each a copy of one."""
    rows = []
    hosts: list[str] = []
    copies.room(max(sizes))
    for size in sizes:
        hosts += [bench.start(IMAGE) for _ in range(size - len(hosts))]
        cost = bench.run(ROOT / "site.yml", hosts, "--forks", str(forks))
        say(f"{size} hosts: {cost.wall:.0f} s, {cost.cpu:.0f} s of CPU, {cost.memory:.0f} MiB")
        if cost.changed:
            raise HostsError(f"{size} converged hosts changed {cost.changed}: the times would not compare")
        rows.append(
            [
                *(str(size), f"{cost.modules:.0f}", f"{cost.wall:.1f}", f"{cost.wall / size:.2f}"),
                *(f"{cost.cpu:.1f}", f"{cost.cpu / size:.2f}", f"{cost.memory:.0f}"),
            ]
        )
    head = ["hosts", "modules a host", "wall, s", "a host", "controller's CPU, s", "a host", "memory, MiB"]
    return f"## Converged hosts (`--forks {forks}`)\n\n" + table(head, rows)


def machine() -> str:
    """The machine, in words."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name, load = model[1] if model else "unknown", os.getloadavg()[0]
    return f"{os.cpu_count()} cores ({name}), {total:.0f} GiB, load {load:.1f} at the start"


@contextlib.contextmanager
def ready() -> Iterator[Bench]:
    """The test hosts' engine and mirror, and an empty bench."""
    cli.up([RELEASE])
    place = Path(tempfile.mkdtemp(prefix="gpufleet-bench-"))
    bench = Bench(place)
    try:
        yield bench
    finally:
        bench.stop()
        shutil.rmtree(place)


def heading(words: Sequence[str]) -> str:
    """What was measured, when, by which command, on what."""
    when, core = datetime.now(timezone.utc), importlib.metadata.version("ansible-core")
    return (
        f"# What a run costs\n\n{when:%Y-%m-%d %H:%M} UTC, by `./run bench times {' '.join(words)}`\n"
        f"with ansible-core {core}, on {machine()}.\n"
        f"The hosts are {RELEASE} containers on the same cores, reached by `docker exec`: wall times hold their work,\n"
        "the controller's CPU and memory do not. In place of torch are small packages. Medians, in brackets from the\n"
        "least to the most.\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the table where it is asked for."""
    parser = argparse.ArgumentParser(prog="./run bench times", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", type=Path, metavar="PATH", help="a role that installs Docker, to compare ours with")
    parser.add_argument("--hosts", default="1,5,20,50", help="sizes of the fleet (%(default)s)")
    parser.add_argument("--forks", type=int, default=5, help="Ansible's forks for the fleet (%(default)s, as its own)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, whose median counts (%(default)s)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="where to write it, as docs/measurements/bench.md")
    asked = parser.parse_args(arguments)
    peer = asked.peer.resolve() if asked.peer else None
    if peer and not (peer / "tasks/main.yml").is_file():
        parser.error(f"{asked.peer} has no tasks/main.yml; name the directory of a role")
    parts = [heading([shown(Path(w).resolve()) if Path(w).exists() else w for w in arguments or sys.argv[1:]])]

    def tell(part: str) -> None:
        """Say and write it at once: what was measured is not lost with what comes after it."""
        print(part, flush=True)
        parts.append(part)
        if asked.write:
            asked.write.write_text("\n".join(parts))

    try:
        with ready() as bench:
            converged(bench)
            tell(against_the_floor(bench, bench.hosts[0], asked.repeats))
            if peer:
                tell(against_a_peer(bench, peer, asked.repeats))
            tell(fleet(bench, sorted(map(int, asked.hosts.split(","))), asked.forks))
    except HostsError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
