"""What one package transaction does, read from apt's own simulation, and how it is undone.

Also the two things around it that are read from text: why a kernel module did not build, and which kept package files
belong to no set any more.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

Steps = dict[str, Any]

# "Inst name [old] (new Origin [arch])", "Remv name [old]", "Purg name [old]"; a foreign architecture is in the name.
_STEP = re.compile(r"^(Inst|Remv|Purg) (\S+)(?: \[([^\]\s]+)\])?(?: \((\S+) )?")
_KERNEL = re.compile(r"^(?:linux-image|linux-modules|kernel-core|kernel-modules)(?:-(?:unsigned|extra))?-(\d\S*)$")
_LOG = re.compile(r"DKMS .*?make\.log for (\S+) for kernel (\S+)")
# gcc and clang name file, line and column; make and the linker do not, and are only asked when no compiler spoke.
_COMPILER = re.compile(r"^\S+:\d+(?::\d+)?: (?:fatal )?error: .+")
_OTHER = re.compile(r"(?:\berror\b|\bErr\b|\bERROR\b|\*\*\*|\bundefined\b|No such file)", re.IGNORECASE)


def steps_of(simulation: str) -> Steps:
    """Return what ``apt-get --simulate`` says it would do.

    ``new`` is {name: version}, ``changed`` {name: {from, to}} and ``removed`` {name: version}.
    """
    new: dict[str, str] = {}
    changed: dict[str, dict[str, str]] = {}
    removed: dict[str, str] = {}
    for line in simulation.splitlines():
        found = _STEP.match(line)
        if not found:
            continue
        kind, name, old, version = found.groups()
        if kind != "Inst":
            removed[name] = old or ""
        elif old is None:
            new[name] = version or ""
        else:
            changed[name] = {"from": old, "to": version or ""}
    return {"new": new, "changed": changed, "removed": removed}


def kernels_in(steps: Steps, kernels: list[str]) -> list[str]:
    """Return in words how the steps would change the kernels of a host that has some; no words are no change."""
    if not kernels:
        return []  # an image in the making has none yet
    brought = [f"bring {name}" for name in steps["new"] if _is_another(name, kernels)]
    replaced = [f"replace {name}" for name in steps["changed"] if _KERNEL.match(name)]
    taken = [f"remove {name}" for name in steps["removed"] if _KERNEL.match(name)]
    return brought + replaced + taken


def _is_another(name: str, kernels: list[str]) -> bool:
    """Whether a new package brings a kernel that is not on the host; more modules of one that is are welcome."""
    found = _KERNEL.match(name)
    return found is not None and found.group(1) not in kernels


def joined(earlier: Steps, later: Steps) -> Steps:
    """Return two transactions as one: an earlier one that was cut off, and the one that goes on from there."""
    if not earlier:
        return later
    changed = {**later["changed"], **earlier["changed"]}
    for name, versions in later["changed"].items():
        changed[name] = {"from": changed[name]["from"], "to": versions["to"]}
    new = {**earlier["new"], **later["new"]}
    return {
        "new": {name: version for name, version in new.items() if name not in earlier["removed"]},
        "changed": {name: versions for name, versions in changed.items() if name not in new},
        "removed": {**later["removed"], **earlier["removed"]},
    }


def undo_of(steps: Steps, files: list[str]) -> list[str]:
    """Return the arguments for apt that undo the steps.

    A kept package file is named by its path, as the archive may have dropped the version.
    """
    if not steps:
        return []
    was = {**{name: versions["from"] for name, versions in steps["changed"].items()}, **steps["removed"]}
    back = {name: version for name, version in was.items() if version and name not in steps["new"]}
    return [f"{name}-" for name in steps["new"]] + files_for(back, files)


def package_of(path: str) -> tuple[str, str]:
    """Return (name, version) of a package file as apt names it: ``name_1%3a2.0-1_amd64.deb``."""
    parts = path.rsplit("/", 1)[-1].removesuffix(".deb").split("_")
    return (parts[0], unquote(parts[1])) if len(parts) == 3 else (parts[0], "")


def files_for(wished: dict[str, str], files: list[str]) -> list[str]:
    """Return apt's arguments that bring a set of versions: the kept file where there is one, else name=version."""
    by_package = {package_of(path): path for path in files}
    return [
        by_package.get((name.partition(":")[0], version), f"{name}={version}")
        for name, version in sorted(wished.items())
    ]


def entries_without(files: list[str], sets: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return entries for ``tree`` that remove the kept files which none of the sets of {name: version} needs."""
    needed = {(name, version) for one in sets for name, version in one.items()}
    return [{"path": path, "state": "absent"} for path in sorted(files) if package_of(path) not in needed]


def build_error(logs: str) -> dict[str, str | None]:
    """Return module, kernel and the first error line of the logs of DKMS, all None where nothing failed to build."""
    module = kernel = None
    other = None
    for line in logs.splitlines():
        head = _LOG.search(line)
        if head:
            module, kernel = head.groups()
        elif _COMPILER.match(line):
            return {"module": module, "kernel": kernel, "line": _short(line)}
        elif other is None and _OTHER.search(line) and not line.startswith("#"):
            other = {"module": module, "kernel": kernel, "line": _short(line)}
    return other or {"module": module, "kernel": kernel, "line": None}


def _short(line: str) -> str:
    """Return the line with the file's name alone: the path to it is a build directory that is gone by then."""
    place, colon, rest = line.strip().partition(":")
    return place.rsplit("/", 1)[-1] + colon + rest


def errors_of(*texts: str) -> str:
    """Return apt's and dpkg's own error lines as one piece of a sentence."""
    lines = [line.strip() for text in texts for line in text.splitlines()]
    said = [line[3:].strip().rstrip(".") for line in lines if line.startswith("E: ")]
    broken = [found.group(1) for line in lines if (found := re.match(r"dpkg: error processing \S+ (\S+)", line))]
    said += [f"dpkg could not process {', '.join(dict.fromkeys(broken))}"] if broken else []
    return "; ".join(dict.fromkeys(said)) or next((line for line in reversed(lines) if line), "no message")


def pins_of(versions: dict[str, str]) -> list[dict[str, Any]]:
    """Return pins that keep these versions: one for each version."""
    by_version: dict[str, list[str]] = {}
    for name, version in sorted(versions.items()):
        by_version.setdefault(version, []).append(name)
    return [{"packages": names, "pin": f"version {version}", "priority": 1001} for version, names in by_version.items()]
