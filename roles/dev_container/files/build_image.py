"""Build a dev container's image from a context that comes in by standard input, and say what came of it.

Input: one JSON document, the order of the role dev_container (its keys are those of ``Order``). Output: progress on
standard error, and as the last line of standard output one JSON document: image, id, size_bytes, seconds, layers,
pruned. A build that fails ends with one sentence and the build's last lines. Runs on Python 3.9 without packages.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import IO, Any

_TAIL = 20
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_PROJECT_LABEL = "host.gpufleet.workspace"
Order = dict[
    str, Any
]  # context, image, moving, project, hash, args, tools, base_archive, network, keep, netrc, room_bytes


class BuildError(Exception):
    """What went wrong, in words for the user."""


def context_of(files: dict[str, str]) -> bytes:
    """Return the context as an archive in which the same texts are always the same bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in sorted(files):
            data = files[name].encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def build_command(order: Order) -> list[str]:
    """Return docker's arguments; the context comes by standard input."""
    words = ["docker", "build", "--progress=plain", f"--network={order['network']}"]
    for name, value in sorted({**order["args"], "BUILD_HASH": order["hash"]}.items()):
        words += ["--build-arg", f"{name}={value}"]
    # Their values come from the environment, and docker keeps them out of the image's history and of the cache's keys.
    words += [word for name in _PROXIES if name in os.environ for word in ("--build-arg", name)]
    if order["netrc"]:
        words += ["--secret", f"id=netrc,src={order['netrc']}"]
    return [*words, "--tag", order["image"], "--tag", order["moving"], "-"]


def docker(*words: str) -> str | None:
    """Return what docker prints, None where it refuses."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def have_base(order: Order) -> None:
    """Load the base from a file where the engine has it not and a file was named."""
    base, archive = order["args"]["BASE_IMAGE"], order["base_archive"]
    if not archive or docker("image", "inspect", base) is not None:
        return
    if docker("load", "--input", archive) is None or docker("image", "inspect", base) is None:
        # Only a registry gives a digest; in a file of images there are tags.
        remedy = (
            "name the image by its tag in dev_container_base_image"
            if "@" in base
            else f"make the file anew with `docker save {base}`"
        )
        raise BuildError(
            f"Found no image {base} in {archive}; wished is dev_container_base_archive={archive}; {remedy}."
        )


def have_tools(tools: dict[str, Any]) -> None:
    """Pack uv and Python, as this host has them, into an image that the build copies them from."""
    if docker("image", "inspect", tools["image"]) is not None:
        return
    missing = [path for path in tools["paths"] if not Path(path).exists()]
    if missing:
        raise BuildError(f"Found no {missing[0]}, which the image is to have; apply gpufleet.host.uv_python first.")
    command = ["docker", "import", "--message", "uv and Python of this host", "-", tools["image"]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr) as process:
        if process.stdin is not None:
            pack(tools["paths"], process.stdin)
            process.stdin.close()
        if process.wait() != 0:
            raise BuildError(f"Docker cannot import {tools['image']}; its own words are above.")


def pack(paths: list[str], stream: IO[bytes]) -> None:
    """Write an archive of paths, root's, with the links beside them that lead to them."""
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for path in map(Path, paths):
            beside = [
                found for found in path.parent.iterdir() if found.is_symlink() and found.resolve() == path.resolve()
            ]
            for found in [path, *sorted(beside)] if path.is_dir() else [path]:
                archive.add(found, arcname=str(found).lstrip("/"), filter=_of_root)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def check_room(order: Order) -> None:
    """Refuse a first build for which the engine's disk is too small; a later one shares the layers."""
    if docker("image", "inspect", order["moving"]) is not None:
        return
    place = (docker("info", "--format", "{{.DockerRootDir}}") or "").strip()
    if not place or not Path(place).is_dir():
        return
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    if free < order["room_bytes"]:
        raise BuildError(
            f"Found {free / 1e9:.1f} GB free in {place}, where an image takes {order['room_bytes'] / 1e9:.1f} GB "
            "while it is built; free some, or set docker_engine_data_root to a larger disk."
        )


def build(order: Order) -> float:
    """Build, and return the seconds."""
    started = time.monotonic()
    environment = {**os.environ, "DOCKER_BUILDKIT": "1", "BUILDX_BUILDER": "default"}
    process = subprocess.Popen(
        build_command(order), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    said, _nothing = process.communicate(context_of(order["context"]))
    text = said.decode("utf-8", "replace")
    sys.stderr.write(text)
    if process.returncode != 0:
        tail = "\n".join(text.strip().splitlines()[-_TAIL:])
        raise BuildError(
            f"The image {order['image']} cannot be built; wished is dev_container_build=true; see below for what "
            "it could not get, and set dev_container_base_image, dev_container_base_archive, uv_python_index_url or "
            f"gpufleet_ca_certificates accordingly. The image that was there before still is.\n{tail}"
        )
    return time.monotonic() - started


def layers(image: str) -> list[dict[str, Any]]:
    """Return the layers, oldest first, with what made them and their bytes."""
    told = docker("history", "--no-trunc", "--human=false", "--format", "{{json .}}", image) or ""
    rows = [json.loads(line) for line in told.splitlines()]
    return [
        {"created_by": row["CreatedBy"][:200], "bytes": int(row["Size"])}
        for row in reversed(rows)
        if row["Size"] != "0"
    ]


def prune(order: Order) -> list[str]:
    """Remove this workspace's older images but for the newest few; the engine itself keeps one that is in use."""
    told = (
        docker("image", "ls", "--filter", f"label={_PROJECT_LABEL}={order['project']}", "--format", "{{json .}}") or ""
    )
    names: list[str] = []
    for row in map(json.loads, told.splitlines()):  # newest first
        name = f"{row['Repository']}:{row['Tag']}"
        if row["Tag"] not in ("<none>", order["moving"].rpartition(":")[2]) and name != order["image"]:
            names.append(name)
    return [name for name in names[int(order["keep"]) :] if docker("image", "rm", name) is not None]


def main() -> int:
    """Read the order, carry it out, print what came of it."""
    order: Order = json.load(sys.stdin)
    try:
        have_base(order)
        check_room(order)
        have_tools(order["tools"])
        seconds = build(order)
    except BuildError as error:
        print(error)
        return 1
    inspected = json.loads(docker("image", "inspect", order["image"]) or "[{}]")[0]
    print(
        json.dumps(
            {
                "image": order["image"],
                "id": inspected.get("Id"),
                "size_bytes": inspected.get("Size"),
                "seconds": round(seconds, 1),
                "layers": layers(order["image"]),
                "pruned": prune(order),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
