"""Prove that a container gets every GPU, and keeps it when systemd reads its units again.

Arguments: the ways (of cdi, runtime and legacy with Docker, and podman), with commas, then the device nodes. The image
is made here, of this host's Python and the libraries that it needs, so that no registry is asked and nothing but the
toolkit can bring what belongs to a GPU. Where the host has NVIDIA's libcuda, the container has to reach every GPU by it
as well: nvidia-smi answers where CUDA does not.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tarfile

IMAGE, NAME = "gpufleet-verify:latest", "gpufleet-verify"
CDI = ["--device", "nvidia.com/gpu=all"]
WAYS = {
    "cdi": ("docker", CDI),
    "runtime": ("docker", ["--runtime", "nvidia", "--env", "NVIDIA_VISIBLE_DEVICES=all"]),
    "legacy": ("docker", ["--gpus", "all", "--env", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]),
    "podman": ("podman", CDI),
}
# Runs in the container. A GPU that is lost is found by opening it: its node stays.
CHECK = """
import ctypes, json, os, sys
devices, cuda = json.loads(sys.argv[1]), sys.argv[2] == "cuda"
for device in devices:
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError as error:
        sys.exit(f"{device}: {error.strerror}")
if cuda:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        sys.exit(f"libcuda.so.1: {error}")
    count = ctypes.c_int()
    calls = {"cuInit": lambda: library.cuInit(0)}
    calls["cuDeviceGetCount"] = lambda: library.cuDeviceGetCount(ctypes.byref(count))
    for name, call in calls.items():
        result = call()
        if result:
            sys.exit(f"{name} says {result}")
    if count.value < len(devices):
        sys.exit(f"CUDA sees {count.value} of {len(devices)} GPUs")
"""
LEFT_OUT = (
    "/test",
    "/idlelib",
    "/tkinter",
    "/ensurepip",
    "/dist-packages",
    "/site-packages",
    "/__pycache__",
    "/config-",
)


def root_filesystem() -> bytes:
    """Return an archive of this host's Python: program, standard library, and the libraries that they are linked to."""
    stdlib = pathlib.Path(sysconfig.get_path("stdlib"))
    program = pathlib.Path(os.path.realpath(sys.executable))
    linked = [program, *stdlib.glob("lib-dynload/_ctypes.*"), *stdlib.glob("lib-dynload/_json.*")]
    said = subprocess.run(["ldd", *linked], capture_output=True, text=True, check=True).stdout
    libraries = sorted(set(re.findall(r"(/[^\s:]*\.so[^\s:]*)", said)) - {str(path) for path in linked})
    buffer = io.BytesIO()

    def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if any(word in f"/{member.name}" for word in LEFT_OUT) else member

    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as tar:
        tar.add(program, "usr/bin/python3")
        tar.add(stdlib, str(stdlib).lstrip("/"), filter=kept)
        for library in libraries:
            tar.add(library, library.lstrip("/"))
    return buffer.getvalue()


def run(engine: str, *words: str, stdin: bytes | None = None) -> str:
    """Run an engine's client and return what it says.

    Raises:
        RuntimeError: it failed, with its last line.
    """
    done = subprocess.run([engine, *words], input=stdin, capture_output=True, check=False, timeout=120)
    if done.returncode:
        lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise RuntimeError(" ".join(line.strip() for line in lines if "--help" not in line)[-600:])
    return done.stdout.decode().strip()


def ask(engine: str, devices: list[str], cuda: bool) -> None:
    """Have the container open every device."""
    run(engine, "exec", NAME, "/usr/bin/python3", "-I", "-c", CHECK, json.dumps(devices), "cuda" if cuda else "no")


def prove(engine: str, asked: list[str], devices: list[str]) -> None:
    """Start a container, ask it, let systemd reload, ask it again."""
    found = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    cuda = "libcuda.so.1" in found and pathlib.Path("/proc/driver/nvidia/version").exists()
    run(engine, "import", "-", IMAGE, stdin=root_filesystem())
    forget = [engine, "rm", "--force", NAME]
    try:
        subprocess.run(forget, capture_output=True, check=False)  # of a run that was cut off
        sleep = ["/usr/bin/python3", "-I", "-c", "import time; time.sleep(300)"]
        # --init is not needed, and its helper is not there everywhere.
        run(engine, "run", "--detach", "--name", NAME, "--network", "none", *asked, IMAGE, *sleep)
        ask(engine, devices, cuda)
        subprocess.run(["systemctl", "daemon-reload"], check=False, capture_output=True)
        try:
            ask(engine, devices, cuda)
        except RuntimeError as error:
            raise RuntimeError(f"after systemctl daemon-reload: {error}") from error
    finally:
        # Also one that was made and did not start.
        for command in (forget, [engine, "rmi", "--force", IMAGE]):
            subprocess.run(command, capture_output=True, check=False)


def main() -> int:
    """Return 0 when the containers have all of them."""
    devices = sys.argv[2:]
    for engine, words in (WAYS[way] for way in sys.argv[1].split(",")):
        asked = f"{engine} run {' '.join(words)}"
        try:
            prove(engine, words, devices)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            print(
                f"Found a container ({asked}) without its GPUs ({', '.join(devices)}): {error}; "
                "look at `nvidia-ctk cdi list` and `systemctl status nvidia-cdi-refresh.service`."
            )
            return 1
        print(f"A container ({asked}) has {', '.join(devices)}, also after systemctl daemon-reload.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
