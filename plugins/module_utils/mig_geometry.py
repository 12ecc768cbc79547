"""How GPUs are cut into MIG instances, as ``nvidia-smi -L`` shows it, and the commands that cut them as wished.

The driver forgets instances when the host starts again. So this file, which needs nothing beside it, also lies on the
host, where ``gpufleet-mig.service`` runs it with the wish's path.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_GPU = re.compile(r"^GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_INSTANCE = re.compile(r"^\s+MIG (\S+)\s+Device\s+\d+:")

Command = list[str]


def geometry_of(listing: str) -> list[dict[str, Any]]:
    """Return ``index``, ``uuid`` and ``profiles`` of each GPU that ``nvidia-smi -L`` lists."""
    gpus: list[dict[str, Any]] = []
    for line in listing.splitlines():
        gpu, instance = _GPU.match(line), _INSTANCE.match(line)
        if gpu:
            gpus.append({"index": gpu.group(1), "uuid": gpu.group(2), "profiles": []})
        elif instance and gpus:
            gpus[-1]["profiles"].append(instance.group(1))
    return gpus


def commands_for(listing: str, wished: list[dict[str, Any]], modes: dict[str, bool | None]) -> list[Command]:
    """Return the commands that make each GPU's geometry the wished one; none where it is that already.

    ``modes`` is {uuid: whether MIG is on}. A GPU of which no wish speaks is left alone, and the last wish counts.
    """
    commands: list[Command] = []
    for gpu in geometry_of(listing):
        speaking = [row for row in wished if _speaks_of(row, gpu)]
        if speaking:
            profiles = [str(profile) for profile in speaking[-1]["profiles"]]
            commands += _commands(gpu, profiles, modes.get(gpu["uuid"]))
    return commands


def _speaks_of(row: dict[str, Any], gpu: dict[str, Any]) -> bool:
    return row["gpus"] == "all" or any(str(item) in (gpu["index"], gpu["uuid"]) for item in row["gpus"])


def _commands(gpu: dict[str, Any], profiles: list[str], on: bool | None) -> list[Command]:
    mode, cut = ["nvidia-smi", "-i", gpu["index"], "-mig"], ["nvidia-smi", "mig", "-i", gpu["index"]]
    clear = [[*cut, "-dci"], [*cut, "-dgi"]] if gpu["profiles"] else []
    if not profiles:
        return [*clear, [*mode, "0"]] if on or gpu["profiles"] else []
    if sorted(gpu["profiles"]) == sorted(profiles):
        return []
    return [*([] if on else [[*mode, "1"]]), *clear, [*cut, "-cgi", ",".join(profiles), "-C"]]


def modes_of(table: str) -> dict[str, bool | None]:
    """Return whether MIG is on by UUID, from ``nvidia-smi --query-gpu=uuid,mig.mode.current --format=csv,noheader``."""
    rows = [line.split(", ") for line in table.splitlines() if ", " in line]
    return {uuid.strip(): {"Enabled": True, "Disabled": False}.get(mode.strip()) for uuid, mode in rows}


def _ask(*words: str) -> str:
    return subprocess.run(["nvidia-smi", *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def main(path: str) -> None:
    """Cut the GPUs as the JSON file at ``path`` wishes. Raises ``CalledProcessError`` where the driver refuses."""
    wished = json.loads(Path(path).read_text(encoding="utf-8"))
    modes = modes_of(_ask("--query-gpu=uuid,mig.mode.current", "--format=csv,noheader"))
    for command in commands_for(_ask("-L"), wished, modes):
        print(" ".join(command), flush=True)
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main(sys.argv[1])
