"""File trees of hosts for gpu_facts, built file by file below a directory."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._root import Root
from ansible_collections.gpufleet.host.plugins.modules import gpu_facts

KERNEL = "6.12.48+deb13-amd64"
DEBIAN_13 = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n'


def kernel_module(version: str, license_text: str) -> bytes:
    """Return the smallest ELF file that has a .modinfo section, as the kernel's build makes it."""
    info = f"license={license_text}\0version={version}\0license=second\0".encode()
    names = b"\0.shstrtab\0.modinfo\0"
    header = 64
    table = header + len(names) + len(info)
    elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 1)
    sections = [
        bytes(64),
        struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, header, len(names), 0, 0, 1, 0),
        struct.pack("<IIQQQQIIQQ", 11, 1, 0, 0, header + len(names), len(info), 0, 0, 1, 0),
    ]
    return elf + names + info + b"".join(sections)


class Tree:
    """Builds a host's files below a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file("proc/sys/kernel/hostname", "box")
        self.file("proc/sys/kernel/osrelease", KERNEL)
        self.file("proc/sys/kernel/arch", "x86_64")
        self.file("proc/meminfo", "MemTotal:       65536000 kB\n")
        self.file("proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD Ryzen 9 7950X\nflags\t\t: fpu vme sse2\n")
        self.file("etc/os-release", DEBIAN_13)
        self.cpus(cores=16, threads=2)

    def file(self, path: str, content: str | bytes = "") -> None:
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())

    def link(self, path: str, target: str) -> None:
        place = self.path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def folder(self, path: str) -> None:
        (self.path / path).mkdir(parents=True, exist_ok=True)

    def cpus(self, cores: int, threads: int) -> None:
        for number in range(cores * threads):
            core = number % cores
            siblings = ",".join(str(core + cores * thread) for thread in range(threads))
            self.file(f"sys/devices/system/cpu/cpu{number}/topology/core_cpus_list", siblings)
        self.file("sys/devices/system/cpu/online", f"0-{cores * threads - 1}")
        self.folder("sys/devices/system/node/node0")

    def pci(self, address: str, device: str, pci_class: str, driver: str | None = None, **files: str) -> None:
        folder = f"sys/bus/pci/devices/{address}"
        for name, content in {"vendor": "0x10de", "device": device, "class": pci_class, **files}.items():
            self.file(f"{folder}/{name}", content)
        if driver:
            self.link(f"{folder}/driver", f"../../../../bus/pci/drivers/{driver}")

    def driver(self, banner: str, version: str = "580.178.04", module: str = "nvidia") -> None:
        self.file("proc/driver/nvidia/version", banner)
        self.file(f"sys/module/{module}/version", version)

    def information(self, address: str, minor: int, model: str, uuid: str) -> None:
        text = f"Model: \t\t {model}\nIRQ:   \t\t 168\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"
        self.file(f"proc/driver/nvidia/gpus/{address}/information", text)
        self.file(f"dev/nvidia{minor}")

    def module(self, kernel: str, path: str, content: bytes) -> None:
        self.file(f"lib/modules/{kernel}/{path}", content)
        self.file(f"lib/modules/{kernel}/modules.dep", f"kernel/drivers/net/dummy.ko:\n{path}: kernel/video.ko\n")

    def look(self, **asked: Any) -> dict[str, Any]:
        question: dict[str, Any] = {"paths": [], "users": [], "groups": [], "uv_path": "/usr/local/bin/uv"}
        facts: dict[str, Any] = gpu_facts.look(
            Root(str(self.path)), **{**question, "venv_path": "/opt/uv/venv", **asked}
        )
        json.dumps(facts)  # what a module returns must be JSON
        return facts
