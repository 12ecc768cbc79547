#!/usr/bin/env python3
# /// script
# requires-python = ">=3.9"
# dependencies = ["torch", "numpy", "nvidia-ml-py"]
# ///
"""Does this host compute with torch, and right? One file, no root, no network, no change to the host.

The file reads top to bottom in the order in which it works:

1. the check catalogue: every id that a report can hold;
2. the report: what a check is, and how many checks become one verdict;
3. the look at the host: PCI, driver, device nodes, NVML, torch, each a small reader;
4. the chain: nine causes why a GPU that is there cannot compute, in the order in which they hide each other;
5. the measurement: matrix products, timed until stable, checked against float64;
6. the run: GPU or CPU, deadline, signals;
7. the renderings: JSON, its schema, and text;
8. the command line.

``checks[]`` is the contract: stable dotted ids, one row a verdict. Text is a rendering of it.

torch and pynvml (of ``nvidia-ml-py``) are optional and imported when first needed; ``--help``, ``--version``,
``--schema``, ``--list-checks`` and ``--explain`` work with neither.

Preview: the GPU measurement has been run against stand-ins only. There is no reference data yet, so a GPU's
speed is reported and not judged.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import functools
import importlib
import importlib.metadata
import json
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, NoReturn, Protocol

TOOL = "torch_probe"
VERSION = "0.1.0"
SCHEMA_VERSION = "1.0"

NO_GPU = "no NVIDIA GPU on the PCI bus"
EXIT_OK, EXIT_FAIL, EXIT_CANNOT_RUN = 0, 1, 2

# =====================================================================================================================
# 1. The check catalogue
# =====================================================================================================================

GPU_DTYPES = ("fp32", "tf32", "fp16", "bf16")
CPU_DTYPES = ("fp32", "bf16")

SOFTWARE_CHECKS = {
    "software.pci": "Every NVIDIA GPU answers on the PCI bus. One whose configuration space reads 0xff has fallen off.",
    "software.driver": "The nvidia kernel module is loaded, is the version on disk, and holds every GPU.",
    "software.nvml": "The driver's management library starts: code 9 driver not loaded, 12 library not found, "
    "15 GPU lost, 18 library and kernel module differ in version.",
    "software.device_nodes": "/dev/nvidiactl, /dev/nvidia-uvm and a /dev/nvidiaN exist and this user may open them.",
    "software.torch": "torch imports, and is built for CUDA where there is a GPU.",
    "software.cuda_version": "The driver is new enough for the CUDA version that torch was built with.",
    "software.architectures": "torch has kernels for every GPU's compute capability.",
    "software.visible_gpus": "PCI, NVML and torch agree on the number of GPUs (after CUDA_VISIBLE_DEVICES).",
    "software.kernel": "A small matrix product runs on every GPU and is right. torch.cuda.is_available() proves less.",
}


def _catalogue() -> dict[str, str]:
    """Every check id with what it means, in the order of a report."""
    checks = {
        "gpu.present": "An NVIDIA GPU is on the PCI bus (read from sysfs, no driver needed). None is `skipped`, and "
        "`fail` with --require-gpu. GPUs given to virtual machines (vfio-pci) are not counted.",
        "gpu.count": "The number of GPUs is the one that --expect-gpus names.",
        **SOFTWARE_CHECKS,
    }
    for dtype in GPU_DTYPES:
        checks[f"matmul.{dtype}.correct"] = (
            f"64 sampled rows of a {dtype} product agree with float64 on the CPU, every element within its bound, and "
            "the whole result is finite. A wrong result is `fail` whatever the speed."
        )
        checks[f"matmul.{dtype}.precision"] = (
            f"The error is the one that {dtype} arithmetic has. A float32 product with TF32's error is named as such."
        )
        checks[f"matmul.{dtype}.throughput"] = (
            "TFLOP/s, the median of the last third of the window after a warm-up until stable. Reported, not judged."
        )
        checks[f"matmul.{dtype}.reference"] = "TFLOP/s against what this GPU model should give. Not yet: no data."
    for dtype in CPU_DTYPES:
        checks[f"cpu.matmul.{dtype}.correct"] = f"64 sampled rows of a {dtype} product on the CPU agree with float64."
        checks[f"cpu.matmul.{dtype}.precision"] = f"The error is the one that {dtype} arithmetic has."
        checks[f"cpu.matmul.{dtype}.throughput"] = "GFLOP/s of the CPU. Reported, never judged."
    checks["probe.complete"] = "The probe came to its end: no internal error, no signal, within --timeout."
    return checks


CATALOGUE = _catalogue()

# =====================================================================================================================
# 2. The report
# =====================================================================================================================

STATUSES = ("pass", "info", "warn", "fail", "unknown", "skipped", "not_run", "explained", "pending_reboot", "error")
SEVERITIES = ("none", "monitor", "isolate", "reset", "replace", "config")


@dataclass(frozen=True)
class Check:
    """One verdict. `gpu` is a UUID or PCI address, None for the host as a whole."""

    id: str
    status: str
    message: str
    remedy: str | None = None
    gpu: str | None = None
    severity: str = "none"
    value: float | None = None
    unit: str | None = None
    limit: dict[str, float] | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass
class MatmulResult:
    """One dtype on one device. Rates are in the unit that `unit` names; None is not measured."""

    dtype: str
    shape: list[int]
    unit: str
    rate: dict[str, float | None]
    rel_error: float | None
    max_element_error: float | None
    precision_verified: bool | None
    status: str


@dataclass
class GpuResult:
    """One GPU. Unknown is None."""

    index: int
    uuid: str | None = None
    pci_bus_id: str | None = None
    name: str | None = None
    compute_capability: str | None = None
    sm_count: int | None = None
    memory_total_bytes: int | None = None
    mig: bool | None = None
    status: str = "not_run"
    matmul: list[MatmulResult] = field(default_factory=list)

    @property
    def key(self) -> str:
        """What a check's `gpu` names it by."""
        return self.uuid or self.pci_bus_id or str(self.index)


def is_measurement(check: Check) -> bool:
    """Whether a pass of this check rests on arithmetic that was done, not on a fact that was read."""
    return check.id.startswith(("matmul.", "cpu.matmul.")) and check.id.endswith(".correct")


def judge(checks: Sequence[Check], strict: bool = False) -> tuple[str, int]:
    """Overall status and exit code. The worst wins; `pass` needs a measurement that passed."""
    statuses = {check.status for check in checks}
    if "fail" in statuses or (strict and statuses & {"warn", "unknown", "explained"}):
        return "fail", EXIT_FAIL
    if "error" in statuses:
        return "error", EXIT_CANNOT_RUN
    for status in ("pending_reboot", "warn"):
        if status in statuses:
            return status, EXIT_OK
    if any(is_measurement(check) and check.status == "pass" for check in checks):
        return "pass", EXIT_OK
    return "skipped", EXIT_OK


def worst(statuses: Iterable[str]) -> str:
    """Status of one GPU or one dtype from those of its checks; `info` says nothing about health."""
    order = ("fail", "error", "unknown", "warn", "not_run", "pass", "skipped")
    found = set(statuses)
    return next((status for status in order if status in found), "not_run")


# =====================================================================================================================
# 3. The look at the host
# =====================================================================================================================


@dataclass(frozen=True)
class Roots:
    """Where the host's trees are. Tests point them elsewhere; what stands beside /proc follows `proc`."""

    sysfs: Path = Path("/sys")
    proc: Path = Path("/proc")
    dev: Path = Path("/dev")

    @property
    def base(self) -> Path:
        """The root directory that these trees hang in."""
        return self.proc.parent


@dataclass(frozen=True)
class PciGpu:
    """One display-class function of NVIDIA on the PCI bus."""

    address: str
    driver: str | None
    answers: bool


@dataclass(frozen=True)
class NvmlView:
    """What NVML says. `code` is nvmlInit's result: 0 works, 12 no library, None not asked."""

    code: int | None
    package: str | None = None
    driver: str | None = None
    cuda_driver: int | None = None
    devices: tuple[dict[str, Any], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class TorchView:
    """What the torch at hand is and sees. `module` is None when it does not import."""

    module: ModuleType | None
    error: str | None = None
    version: str | None = None
    cuda: str | None = None
    hip: str | None = None
    arch_list: tuple[str, ...] = ()
    available: bool = False
    devices: tuple[dict[str, Any], ...] = ()


def read_text(path: Path) -> str | None:
    """A small file's text without surrounding space; None when it cannot be read or is empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def read_bytes(path: Path, count: int) -> bytes:
    """The first bytes of a file, empty when it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return b""


def read_pci(roots: Roots, vendor: str) -> list[PciGpu] | None:
    """Display controllers (class 0x0300 VGA, 0x0302 3D) of one vendor; None when there is no PCI tree to read."""
    try:
        devices = sorted((roots.sysfs / "bus/pci/devices").iterdir())
    except OSError:
        return None
    found = []
    for device in devices:
        if read_text(device / "vendor") != vendor:
            continue
        if not (read_text(device / "class") or "").startswith(("0x0300", "0x0302")):
            continue
        driver = device / "driver"
        # A GPU that fell off the bus keeps its sysfs entry; only its configuration space tells.
        config = read_bytes(device / "config", 4)
        found.append(PciGpu(device.name, driver.resolve().name if driver.exists() else None, config != b"\xff" * 4))
    return found


def read_loaded_driver(roots: Roots) -> str | None:
    """Version of the nvidia module in the running kernel."""
    version = read_text(roots.sysfs / "module/nvidia/version")
    if version:
        return version
    found = re.search(
        r"Kernel Module\s+(?:for \S+\s+)?(\d+\.[\d.]+)", read_text(roots.proc / "driver/nvidia/version") or ""
    )
    return found.group(1) if found else None


def read_driver_on_disk() -> str | None:
    """Version of the nvidia module that the next load would take, for the running kernel."""
    for command in ("modinfo", "/sbin/modinfo", "/usr/sbin/modinfo"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                [command, "-F", "version", "nvidia"], capture_output=True, text=True, timeout=10, check=False
            )
            return done.stdout.strip() or None
    return None


def read_secure_boot(roots: Roots) -> bool | None:
    """Whether UEFI Secure Boot is on; None without UEFI or without the right to read."""
    variable = roots.sysfs / "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    data = read_bytes(variable, 5)
    return data[4] == 1 if len(data) == 5 else None


def read_container(roots: Roots) -> bool:
    """Whether this process runs in a container."""
    markers = (".dockerenv", "run/.containerenv", "run/systemd/container")
    return any((roots.base / marker).exists() for marker in markers) or "KUBERNETES_SERVICE_HOST" in os.environ


def read_wsl(roots: Roots) -> bool:
    """Whether the kernel is Microsoft's: there the driver is Windows's, and no GPU is on a PCI bus."""
    return "microsoft" in (read_text(roots.proc / "sys/kernel/osrelease") or "").lower()


def read_missing_nodes(roots: Roots) -> tuple[list[str], list[str]]:
    """Device nodes that CUDA needs and that are (missing, not open to this user)."""
    cards = sorted(path for path in roots.dev.glob("nvidia[0-9]*"))
    wanted = [roots.dev / "nvidiactl", roots.dev / "nvidia-uvm", *(cards or [roots.dev / "nvidia0"])]
    missing = [str(path) for path in wanted if not path.exists()]
    closed = [str(path) for path in wanted if path.exists() and not os.access(path, os.R_OK | os.W_OK)]
    return missing, closed


def _text(value: object) -> str:
    """NVML's strings are bytes in older versions of the package."""
    return value.decode() if isinstance(value, bytes) else str(value)


def normal_bus_id(bus_id: str) -> str:
    """`00000000:1B:00.0` (NVML) and `0000:1b:00.0` (sysfs) are one address."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]:0>4}:{rest}"


def nvml_code_without_package() -> tuple[int, int | None]:
    """nvmlInit's result and the driver's CUDA version straight from the libraries, for hosts without nvidia-ml-py."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 12, None
    code = int(library.nvmlInit_v2())
    version = ctypes.c_int(0)
    if code == 0:
        if library.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(version)) != 0:
            version.value = 0
        library.nvmlShutdown()
    return code, version.value or None


def _nvml_device(nvml: ModuleType, index: int) -> dict[str, Any]:
    """One device's facts; what a device does not support is None, and one that does not answer says so."""

    def ask(name: str) -> Any:
        try:
            return getattr(nvml, name)(handle)
        except nvml.NVMLError:
            return None

    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        return {"index": index, "error": str(error), "code": getattr(error, "value", None)}
    pci, memory, mig = ask("nvmlDeviceGetPciInfo"), ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetMigMode")
    capability, uuid, name = (
        ask("nvmlDeviceGetCudaComputeCapability"),
        ask("nvmlDeviceGetUUID"),
        ask("nvmlDeviceGetName"),
    )
    return {
        "index": index,
        "uuid": _text(uuid) if uuid else None,
        "name": _text(name) if name else None,
        "pci_bus_id": normal_bus_id(_text(pci.busId)) if pci else None,
        "memory_total_bytes": int(memory.total) if memory else None,
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
        "mig": bool(mig[0]) if mig else None,
    }


def read_nvml() -> NvmlView:
    """What NVML says, through nvidia-ml-py where it is installed, else only whether the library starts."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        code, cuda_driver = nvml_code_without_package()
        return NvmlView(code, cuda_driver=cuda_driver)
    package = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        package = importlib.metadata.version("nvidia-ml-py")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return NvmlView(getattr(error, "value", 999), package, error=str(error))
    try:
        cuda_driver = None
        with contextlib.suppress(nvml.NVMLError):
            cuda_driver = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        return NvmlView(
            0,
            package,
            _text(nvml.nvmlSystemGetDriverVersion()),
            cuda_driver,
            tuple(_nvml_device(nvml, index) for index in range(nvml.nvmlDeviceGetCount())),
        )
    except nvml.NVMLError as error:
        return NvmlView(getattr(error, "value", 999), package, error=str(error))
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _torch_device(torch: ModuleType, index: int) -> dict[str, Any]:
    """One device's facts as torch has them; older versions lack the bus id and the UUID."""
    known = torch.cuda.get_device_properties(index)
    bus = getattr(known, "pci_bus_id", None)
    uuid = getattr(known, "uuid", None)
    place = f"{getattr(known, 'pci_domain_id', 0):04x}:{bus:02x}:{getattr(known, 'pci_device_id', 0):02x}.0"
    return {
        "index": index,
        "uuid": (str(uuid) if str(uuid).startswith(("GPU-", "MIG-")) else f"GPU-{uuid}") if uuid else None,
        "name": str(known.name),
        "pci_bus_id": place if bus is not None else None,
        "memory_total_bytes": int(known.total_memory),
        "compute_capability": f"{known.major}.{known.minor}",
        "sm_count": int(known.multi_processor_count),
    }


Tell = Callable[[str, bool], None]
"""Is told what is being done, and whether only a sick GPU would not come back from it."""


def read_torch(tell: Tell) -> TorchView:
    """Import torch and ask what it is and sees. Anything that its import raises is a finding, not a crash."""
    tell("importing torch", False)
    # CUDA's own order is by speed; NVML's and sysfs's is by bus. Set before torch starts CUDA.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    try:
        torch = importlib.import_module("torch")
        version = str(torch.__version__)
    except Exception as error:  # a half-installed torch raises anything: OSError, AttributeError, RuntimeError
        return TorchView(None, first_line(error))
    cuda, hip = getattr(torch.version, "cuda", None), getattr(torch.version, "hip", None)
    arch_list: tuple[str, ...] = ()
    devices: tuple[dict[str, Any], ...] = ()
    available, problem = False, None
    if cuda:
        tell("starting CUDA under torch", True)
        try:
            available = bool(torch.cuda.is_available())
            arch_list = tuple(torch.cuda.get_arch_list())
            if available:
                devices = tuple(_torch_device(torch, index) for index in range(torch.cuda.device_count()))
        except Exception as error:  # the driver's faults come through here as RuntimeError and AssertionError
            problem = first_line(error)
    return TorchView(torch, problem, version, cuda, hip, arch_list, available, devices)


def first_line(error: BaseException) -> str:
    """An exception as one line: its type and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


class Host:
    """What is known of this host. The costly readings (NVML, torch) are made when first asked for, and once."""

    def __init__(self, roots: Roots, tell: Tell) -> None:
        self.roots, self.tell = roots, tell
        found = read_pci(roots, "0x10de")
        self.pci_readable = found is not None
        self.pci = [gpu for gpu in found or [] if gpu.driver != "vfio-pci"]
        self.vfio = [gpu for gpu in found or [] if gpu.driver == "vfio-pci"]
        self.container = read_container(roots)
        self.wsl = read_wsl(roots)

    @functools.cached_property
    def loaded(self) -> str | None:
        """Version of the loaded nvidia module."""
        return read_loaded_driver(self.roots)

    @functools.cached_property
    def on_disk(self) -> str | None:
        """Version of the nvidia module on disk."""
        return read_driver_on_disk()

    @functools.cached_property
    def nvml(self) -> NvmlView:
        """NVML's view."""
        return read_nvml()

    @functools.cached_property
    def torch(self) -> TorchView:
        """torch's view."""
        # Starting CUDA can hang only where there is a GPU to hang.
        return read_torch(lambda phase, on_gpu: self.tell(phase, on_gpu and bool(self.pci)))

    @property
    def gpu_count(self) -> int:
        """GPUs that are ours to use: by PCI, and where the PCI bus does not tell, by NVML, then torch.

        A container sees the host's whole PCI bus and has only the GPUs that it was given.
        """
        if self.pci and self.container:
            return len(self.nvml.devices) or len(self.pci)
        if self.pci or (self.pci_readable and not self.wsl):
            return len(self.pci)
        return len(self.nvml.devices) or len(self.torch.devices)

    @property
    def torch_sees_gpu(self) -> bool:
        """Whether CUDA has started under torch: then the libraries and device nodes cannot be at fault."""
        return self.torch.available and len(self.torch.devices) > 0

    @property
    def other_gpus(self) -> list[str]:
        """Names of vendors whose display controllers are there too."""
        vendors = {"0x1002": "AMD", "0x8086": "Intel"}
        return [name for vendor, name in vendors.items() if read_pci(self.roots, vendor)]


# =====================================================================================================================
# 4. The chain: why a GPU that is there cannot compute
# =====================================================================================================================


@dataclass(frozen=True)
class Finding:
    """A cause and its remedy. `reboot_cures` marks those that vanish when a pending reboot is done."""

    message: str
    remedy: str
    status: str = "fail"
    severity: str = "config"
    reboot_cures: bool = False


CONTAINER_REMEDY = (
    "Give the container its GPUs: start it with `--device nvidia.com/gpu=all` (CDI) or `--gpus all`, "
    "with the NVIDIA Container Toolkit installed on the host (role container_toolkit)."
)
DRIVER_REMEDY = "Install the NVIDIA driver (role nvidia_driver), then reboot."
REBOOT_REMEDY = "Reboot (or unload and load the nvidia modules when no process uses a GPU), then probe again."


def step_pci(host: Host) -> Finding | None:
    """1. Every GPU answers on the bus."""
    lost = [gpu.address for gpu in host.pci if not gpu.answers]
    if not lost:
        return None
    return Finding(
        f"GPU {', '.join(lost)} does not answer on the PCI bus (its configuration space reads 0xff)",
        "Power the machine off and on; if it comes back, check power cables and seating, then replace the GPU.",
        severity="replace",
    )


def _driver_not_loaded(host: Host) -> Finding:
    if any(gpu.driver == "nouveau" for gpu in host.pci):
        return Finding("nouveau holds the GPU, so the nvidia module cannot", DRIVER_REMEDY, reboot_cures=True)
    if host.container:
        return Finding(
            "the nvidia kernel module is not loaded on the container's host",
            "Install or load the driver on the host, not in the container (role nvidia_driver).",
            reboot_cures=True,
        )
    if host.on_disk is None:
        return Finding("no NVIDIA driver: no nvidia module is loaded or on disk", DRIVER_REMEDY, reboot_cures=True)
    if read_secure_boot(host.roots):
        return Finding(
            f"nvidia {host.on_disk} is on disk but not loaded, and Secure Boot is on: "
            "the module is probably not signed by a key that the firmware trusts",
            "Enrol the key that signs the module (`mokutil --import`, then reboot), or use signed modules, "
            "or switch Secure Boot off. `modprobe nvidia` as root names the reason.",
            reboot_cures=True,
        )
    return Finding(
        f"nvidia {host.on_disk} is on disk but not loaded",
        "Run `modprobe nvidia` as root and read its message (`dmesg | grep -i nvrm`), or reboot.",
        reboot_cures=True,
    )


def step_driver(host: Host) -> Finding | None:
    """2. The module is loaded, the one on disk, and holds every GPU."""
    if host.wsl:
        return None
    if host.loaded is None:
        return _driver_not_loaded(host)
    if host.on_disk and host.on_disk != host.loaded:
        return Finding(
            f"the loaded nvidia module is {host.loaded}, the one on disk is {host.on_disk}",
            REBOOT_REMEDY,
            reboot_cures=True,
        )
    strange = [f"{gpu.address} ({gpu.driver or 'no driver'})" for gpu in host.pci if gpu.driver != "nvidia"]
    if strange:
        return Finding(
            f"nvidia {host.loaded} is loaded but does not hold {', '.join(strange)}",
            "Read `dmesg | grep -i nvrm`: an older GPU needs an older driver branch or the proprietary flavour, "
            "a newer one a newer branch or the open flavour (role nvidia_driver).",
            reboot_cures=True,
        )
    return None


NVML_CAUSES: Mapping[int, Finding] = {
    9: Finding("NVML: the driver is not loaded (9)", REBOOT_REMEDY, reboot_cures=True),
    15: Finding("NVML: a GPU is lost (15)", "Power the machine off and on; check power and seating.", severity="reset"),
    18: Finding(
        "NVML: the driver's library and the kernel module differ in version (18)", REBOOT_REMEDY, reboot_cures=True
    ),
}


def step_nvml(host: Host) -> Finding | None:
    """3. The management library starts and every device answers."""
    view = host.nvml
    if view.code == 12:
        return _nvml_library_missing(host)
    if view.code:
        other = Finding(
            f"NVML does not start: {view.error or f'code {view.code}'}",
            "Read `dmesg | grep -i nvrm`; reinstall the driver if its files are of mixed versions.",
            reboot_cures=True,
        )
        return NVML_CAUSES.get(view.code, other)
    lost = [device for device in view.devices if device.get("error")]
    if lost:
        names = ", ".join(f"GPU {device['index']}: {device['error']}" for device in lost)
        return Finding(f"NVML: {names}", "Read `dmesg | grep -i xid`; reset the GPU or reboot.", severity="reset")
    return None


def _nvml_library_missing(host: Host) -> Finding:
    """A container with the `compute` capability alone has CUDA and no NVML: a warning there, a cause elsewhere."""
    if host.torch_sees_gpu:
        return Finding(
            "libnvidia-ml.so.1 is not found, so clocks, power and errors cannot be read; CUDA works",
            "Add the `utility` driver capability (container) or install the driver's NVML library.",
            status="warn",
        )
    if host.container:
        return Finding("the driver's libraries are not in this container (libnvidia-ml.so.1)", CONTAINER_REMEDY)
    return Finding(
        "the driver's user-space libraries are missing (libnvidia-ml.so.1)", DRIVER_REMEDY, reboot_cures=True
    )


def step_device_nodes(host: Host) -> Finding | None:
    """4. The device nodes are there and open to this user."""
    if host.wsl:
        return None
    missing, closed = read_missing_nodes(host.roots)
    if not missing and not closed:
        return None
    # nvidia-modprobe makes nodes on demand, so ask CUDA before blaming them.
    if host.torch_sees_gpu:
        return None
    if missing and host.container:
        return Finding(f"the container has no {', '.join(missing)}", CONTAINER_REMEDY)
    if missing:
        return Finding(
            f"{', '.join(missing)} missing",
            "Run `nvidia-modprobe -u -c 0` as root, or install the package nvidia-modprobe.",
            reboot_cures=True,
        )
    return Finding(
        f"user {os.geteuid()} may not open {', '.join(closed)}",
        "Set mode 0666 or add the user to the owning group (NVreg_DeviceFileMode, or the container's device rules).",
    )


def step_torch(host: Host) -> Finding | None:
    """5. torch imports and is a CUDA build."""
    view = host.torch
    if view.module is None:
        return torch_missing(view)
    if view.cuda:
        return None
    if view.hip:
        return Finding(f"torch {view.version} is a ROCm build", "Install a CUDA build of torch (a cuXXX wheel).")
    return Finding(
        f"torch {view.version} is a CPU-only wheel",
        "Install the cuXXX wheel of torch that fits this driver (role uv_python, torch channel auto).",
    )


def torch_missing(view: TorchView) -> Finding:
    """The one finding that is no fault of the host's GPU: the probe has nothing to measure with."""
    return Finding(
        f"torch not importable by {sys.executable}: {view.error}",
        "Run the probe with the Python that has torch (the venv of role uv_python), or install torch there.",
        status="error",
    )


def step_cuda_version(host: Host) -> Finding | None:
    """6. The driver knows the CUDA major version of the wheel; within a major version any minor works."""
    driver, wheel = host.nvml.cuda_driver, host.torch.cuda
    if driver is None or wheel is None or host.torch.available:
        return None
    if driver // 1000 >= int(wheel.split(".")[0]):
        return None
    return Finding(
        f"the driver knows CUDA {cuda_text(driver)}, torch {host.torch.version} is built for CUDA {wheel}",
        "Install a newer driver (role nvidia_driver), or the torch wheel for the older CUDA (torch channel).",
        reboot_cures=True,
    )


def cuda_text(version: int) -> str:
    """NVML's 12040 as 12.4."""
    return f"{version // 1000}.{version % 1000 // 10}"


def has_kernels(capability: str, arch_list: Sequence[str]) -> bool:
    """Whether binaries (same major, minor not above) or PTX (not above) in `arch_list` serve this capability.

    `sm_90a` serves 9.0 alone; `sm_100f` serves its family, which is the same rule as a plain `sm_100` here.
    """
    major, minor = (int(part) for part in capability.split("."))
    for arch in arch_list:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if not found:
            continue
        kind, have, suffix = found.group(1), (int(found.group(2)), int(found.group(3))), found.group(4)
        if suffix == "a":
            if have == (major, minor):
                return True
        elif kind == "compute":
            if have <= (major, minor):
                return True
        elif have[0] == major and have[1] <= minor:
            return True
    return False


def step_architectures(host: Host) -> Finding | None:
    """7. The wheel has kernels for every GPU."""
    devices = host.torch.devices or host.nvml.devices
    capabilities = {device["compute_capability"] for device in devices if device.get("compute_capability")}
    without = sorted(c for c in capabilities if host.torch.arch_list and not has_kernels(c, host.torch.arch_list))
    if not without:
        return None
    oldest = min(float(capability) for capability in without)
    wheel = "the cu126 wheel (or an older torch)" if oldest < 7.5 else "a wheel for CUDA 12.8 or newer (cu130)"
    names = ", ".join("sm_" + capability.replace(".", "") for capability in without)
    return Finding(
        f"torch {host.torch.version} has no kernels for {names} (it has {' '.join(host.torch.arch_list)})",
        f"Install {wheel} (role uv_python, torch channel auto).",
    )


def step_visible_gpus(host: Host) -> Finding | None:
    """8. PCI, NVML and torch agree, but for what CUDA_VISIBLE_DEVICES chooses."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = len(host.torch.devices)
    if chosen is not None:
        if seen:
            return None
        return Finding(
            f"CUDA_VISIBLE_DEVICES={chosen!r} hides every GPU",
            "Unset it, or set it to indices or UUIDs such as 0,1 (`all` is the container toolkit's word, not CUDA's).",
        )
    if any(device.get("mig") for device in host.nvml.devices):
        return None
    expected = len(host.nvml.devices) or (host.gpu_count if not host.container else 0)
    if not host.container:
        expected = max(expected, host.gpu_count)
    # None at all is for the next step, which has the exception's own words.
    if seen == 0 or seen >= expected:
        return None
    here = {device.get("pci_bus_id") for device in host.torch.devices}
    known = [gpu.address for gpu in host.pci] or [str(device.get("pci_bus_id")) for device in host.nvml.devices]
    missing = [address for address in known if address not in here] if None not in here else []
    return Finding(
        f"torch sees {seen} of {expected} GPUs" + (f"; missing: {', '.join(missing)}" if missing else ""),
        "Read `dmesg | grep -i -e nvrm -e xid` for the missing one; `nvidia-smi` lists what the driver has.",
        severity="isolate",
        reboot_cures=True,
    )


KERNEL_CAUSES = (
    (
        ("802", "not yet initialized"),
        "Start the Fabric Manager of the driver's version (nvidia-fabricmanager); NVSwitch hosts need it.",
    ),
    (("803", "system has unsupported display driver"), REBOOT_REMEDY),
    (("no kernel image",), "Install a torch wheel that has kernels for this GPU (role uv_python, torch channel auto)."),
    (("out of memory",), "Another process holds the GPU's memory: `nvidia-smi` names it. Probe when the GPU is free."),
    (("busy or unavailable",), "Another process holds the GPU exclusively (compute mode): end it, then probe again."),
    (("ECC", "uncorrectable"), "Reset the GPU (drain it first); replace it if the error comes back."),
)


def kernel_remedy(text: str) -> str:
    """The remedy for CUDA's own words."""
    for words, remedy in KERNEL_CAUSES:
        if any(word in text for word in words):
            return remedy
    return "Read `dmesg | grep -i -e nvrm -e xid`; for deeper tests run `dcgmi diag -r 3`."


def run_tiny_kernel(torch: ModuleType, index: int) -> str | None:
    """A product of two integer matrices, exact in float32 and in TF32; None when it is right."""
    a = torch.arange(64 * 64).remainder(7).reshape(64, 64).to(torch.float32)
    b = torch.arange(64 * 64).remainder(5).reshape(64, 64).to(torch.float32)
    device = f"cuda:{index}"
    got = (a.to(device) @ b.to(device)).cpu()
    return None if bool(torch.equal(got, a @ b)) else "the product of two small matrices is wrong"


def step_kernel(host: Host) -> Finding | None:
    """9. A real kernel runs on every GPU and is right."""
    torch = host.torch.module
    if torch is None:
        return None
    for index in range(max(1, len(host.torch.devices))):
        try:
            problem = run_tiny_kernel(torch, index)
        except Exception as error:  # CUDA's errors arrive as RuntimeError, AssertionError and torch's own types
            text = first_line(error)
            return Finding(f"GPU {index} does not compute: {text}", kernel_remedy(text), reboot_cures=True)
        if problem:
            return Finding(
                f"GPU {index}: {problem}", "Take this GPU out of use; run `dcgmi diag -r 3`.", severity="isolate"
            )
    return None


CHAIN: tuple[tuple[str, Callable[[Host], Finding | None]], ...] = (
    ("software.pci", step_pci),
    ("software.driver", step_driver),
    ("software.nvml", step_nvml),
    ("software.device_nodes", step_device_nodes),
    ("software.torch", step_torch),
    ("software.cuda_version", step_cuda_version),
    ("software.architectures", step_architectures),
    ("software.visible_gpus", step_visible_gpus),
    ("software.kernel", step_kernel),
)


def walk_chain(host: Host, pending_reboot: bool, tell: Tell) -> Iterator[Check]:
    """One check a step. After the first cause the rest is `not_run`: it would only repeat the cause in other words."""
    cause: str | None = None
    for check_id, step in CHAIN:
        if cause:
            yield Check(check_id, "not_run", f"{cause} comes first")
            continue
        tell(f"checking {check_id}", check_id in ("software.nvml", "software.kernel"))
        finding = step(host)
        if finding is None:
            yield Check(check_id, "pass", "ok")
            continue
        status = finding.status
        if status == "fail" and pending_reboot and finding.reboot_cures:
            status = "pending_reboot"
        yield Check(check_id, status, finding.message, finding.remedy, severity=finding.severity)
        if status != "warn":
            cause = check_id


# =====================================================================================================================
# 5. The measurement
# =====================================================================================================================

SEED = 20261122
SAMPLED_ROWS = 64


@dataclass(frozen=True)
class Arithmetic:
    """What a dtype's product may err against float64, with normally distributed inputs.

    `typical` is the relative Frobenius error that this arithmetic has. Above `high` the result is wrong or of a lower
    precision; below `low` it is of a higher precision than its name says. `element` bounds each element's error times
    sqrt(K) over the norms of its row and column: rounding an element of eight standard deviations stays below it.
    """

    storage: str
    typical: float
    low: float
    high: float
    element: float


ARITHMETIC = {
    "fp32": Arithmetic("float32", 3.5e-7, 0.0, 1e-5, 4e-5),
    "tf32": Arithmetic("float32", 2.9e-4, 1e-5, 1e-3, 4e-3),
    "fp16": Arithmetic("float16", 2.1e-4, 1e-5, 1e-3, 4e-3),
    "bf16": Arithmetic("bfloat16", 1.66e-3, 4e-4, 5e-3, 4e-2),
}


@dataclass(frozen=True)
class ProductError:
    """How far the sampled rows are from float64, and whether every element of the result is finite."""

    relative: float
    element: float
    finite: bool


def judge_error(dtype: str, error: ProductError) -> tuple[bool, bool, str]:
    """(right, of the named precision, why). NaN is never right: the comparisons are written so that it fails."""
    arithmetic = ARITHMETIC[dtype]
    if not error.finite:
        return False, False, "the result has elements that are not finite (or were never written)"
    if error.relative <= arithmetic.high and error.element <= arithmetic.element:
        if error.relative >= arithmetic.low:
            return True, True, f"relative error {error.relative:.1e}"
        return True, False, f"relative error {error.relative:.1e} is that of a higher precision than {dtype}"
    if error.relative <= arithmetic.high:
        return False, True, f"single elements are wrong by up to {error.element:.1e} (bound {arithmetic.element:.0e})"
    for other in ("tf32", "bf16"):
        # A silent change of arithmetic keeps every element within the other arithmetic's bound; a fault does not.
        bound = ARITHMETIC[other]
        if (
            arithmetic.high < bound.high
            and bound.low <= error.relative <= bound.high
            and error.element <= bound.element
        ):
            return True, False, f"relative error {error.relative:.1e} is that of {other}, not of {dtype}"
    return False, False, f"relative error {error.relative:.1e}, {dtype} has {arithmetic.typical:.1e}"


class Work(Protocol):
    """A matrix product that can be timed and checked. Tests put a stand-in here."""

    def seconds(self, count: int) -> float:
        """Run `count` products and return how long they took."""

    def error(self) -> ProductError:
        """Run one product and compare it with float64."""


class TorchWork:
    """n x n products on one device, by torch. Inputs are random, because predictable data draw less power."""

    def __init__(self, torch: ModuleType, device: str, dtype: str, n: int) -> None:
        self.torch, self.device, self.n = torch, device, n
        self.storage = getattr(torch, ARITHMETIC[dtype].storage)
        generator = torch.Generator(device=device)
        generator.manual_seed(SEED)

        def operand() -> Any:
            return torch.randn(n, n, generator=generator, device=device, dtype=torch.float32).to(self.storage)

        # Two pairs in turn, so that no operand stays in a cache; the second operand is column-major.
        self.pairs = [(operand(), operand().t()) for _ in range(2)]
        self.out = torch.empty(n, n, device=device, dtype=self.storage)

    def _run(self, count: int) -> None:
        for number in range(count):
            a, b = self.pairs[number % len(self.pairs)]
            self.torch.mm(a, b, out=self.out)

    def seconds(self, count: int) -> float:
        """Device events on a GPU (its clock, not the host's), the monotonic clock on the CPU."""
        if self.device == "cpu":
            start = time.perf_counter()
            self._run(count)
            return time.perf_counter() - start
        stream = self.torch.cuda.current_stream(self.device)
        first, last = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record(stream)
        self._run(count)
        last.record(stream)
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000.0

    def error(self) -> ProductError:
        """Sampled rows, all columns, float64 on the CPU; the output is poisoned first so that a missing write shows."""
        torch, n = self.torch, self.n
        a, b = self.pairs[0]
        self.out.fill_(math.nan)
        torch.mm(a, b, out=self.out)
        finite = bool(torch.isfinite(self.out).all())
        generator = torch.Generator()
        generator.manual_seed(SEED)
        rows = torch.randperm(n, generator=generator)[: min(SAMPLED_ROWS, n)]
        index = rows.to(self.device)
        got, left = self.out[index].cpu().double(), a[index].cpu().double()
        left_norm = left.norm(dim=1)
        wrong = whole = worst_element = 0.0
        columns = b.t()  # rows in memory
        for begin in range(0, n, 1024):  # the second operand in float64 would fill the host's memory
            right = columns[begin : begin + 1024].cpu().double()
            truth = left @ right.t()
            off = (got[:, begin : begin + 1024] - truth).abs()
            wrong += float((off * off).sum())
            whole += float((truth * truth).sum())
            scale = left_norm[:, None] * right.norm(dim=1)[None, :] / math.sqrt(n)
            element = float((off / scale).max())
            # max() drops a NaN on its right-hand side
            worst_element = element if math.isnan(element) else max(worst_element, element)
            if math.isnan(worst_element):
                break
        relative = math.sqrt(wrong / whole) if whole > 0 else math.nan
        return ProductError(relative, worst_element, finite)


@contextlib.contextmanager
def fp32_mode(torch: ModuleType, mode: str) -> Iterator[None]:
    """float32 products as `ieee` or `tf32`. Old and new switches must not be mixed: the new one where it exists."""
    switch = torch.backends.cuda.matmul
    name, value = ("fp32_precision", mode) if hasattr(switch, "fp32_precision") else ("allow_tf32", mode == "tf32")
    before = getattr(switch, name)
    setattr(switch, name, value)
    try:
        yield
    finally:
        setattr(switch, name, before)


def full_accumulation(torch: ModuleType) -> None:
    """Sums of half-precision products in float32: the default of some of these differs between versions."""
    switch = torch.backends.cuda.matmul
    for name in (
        "allow_fp16_reduced_precision_reduction",
        "allow_bf16_reduced_precision_reduction",
        "allow_fp16_accumulation",
    ):
        if hasattr(switch, name):
            setattr(switch, name, False)


@dataclass(frozen=True)
class Timing:
    """How long to warm up and to measure, in seconds."""

    batch: float
    warmup_min: float
    warmup_max: float
    window: float


TIMING = {
    ("cpu", "quick"): Timing(0.05, 0.2, 1.0, 0.6),
    ("cpu", "standard"): Timing(0.1, 0.5, 3.0, 3.0),
    ("gpu", "quick"): Timing(0.025, 1.0, 3.0, 1.5),
    ("gpu", "standard"): Timing(0.03, 1.0, 8.0, 4.0),
}
DEFAULT_TIMEOUT = {"quick": 180.0, "standard": 600.0}


@dataclass(frozen=True)
class Rates:
    """Operations a second: sustained is the median of the window's last third, burst the best half second."""

    burst: float
    sustained: float
    p10: float
    median: float
    p90: float
    cv: float
    batches: int
    stable: bool


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation on sorted values."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def best_stretch(seconds: Sequence[float], work: float, stretch: float) -> float:
    """Best rate over neighbouring batches that last `stretch` together; over all of them when they are shorter."""
    best, begin, total = 0.0, 0, 0.0
    for end, value in enumerate(seconds):
        total += value
        while total - seconds[begin] >= stretch:
            total -= seconds[begin]
            begin += 1
        if total >= stretch:
            best = max(best, work * (end - begin + 1) / total)
    return best or work * len(seconds) / sum(seconds)


def measure(work: Work, timing: Timing, operations: float) -> Rates:
    """Warm up until five batches agree within 1 %, then measure for the window. `operations` is that of one product."""
    work.seconds(1)
    single = max(work.seconds(1), 1e-7)
    count = max(1, round(timing.batch / single))
    warm: list[float] = []
    stable = False
    while sum(warm) < timing.warmup_min or (not stable and sum(warm) < timing.warmup_max):
        warm.append(work.seconds(count))
        last = warm[-5:]
        stable = len(last) == 5 and max(last) <= 1.01 * min(last)
    window: list[float] = []
    while sum(window) < timing.window or len(window) < 5:
        window.append(work.seconds(count))
    batch_work = operations * count
    rates = sorted(batch_work / value for value in window)
    tail = window[-max(1, len(window) // 3) :]
    mean = statistics.fmean(rates)
    return Rates(
        burst=best_stretch([*warm, *window], batch_work, 0.5),
        sustained=batch_work / statistics.median(tail),
        p10=quantile(rates, 0.1),
        median=statistics.median(rates),
        p90=quantile(rates, 0.9),
        cv=statistics.pstdev(rates) / mean,
        batches=len(rates),
        stable=stable,
    )


def gpu_size(tflops: float, free_bytes: int) -> int:
    """The canonical shape of a GPU's class, so that results compare from host to host and year to year."""
    if tflops < 40 or free_bytes < 2 * 1024**3:
        return 4096
    return 16384 if tflops > 1200 and free_bytes > 16 * 1024**3 else 8192


def cpu_size(gflops: float) -> int:
    """2048 where such a product takes less than a quarter of a second, else 1024."""
    return 2048 if gflops > 2 * 2048**3 / 0.25 / 1e9 else 1024


def gpu_dtypes(capability: str, profile: str) -> list[str]:
    """What this chip has in hardware: tf32 and bf16 from 8.0, fp16 from 7.0. `quick` takes one half precision."""
    ampere = float(capability) >= 8.0
    volta = float(capability) >= 7.0
    if profile == "quick":
        return ["fp32", *(["tf32", "bf16"] if ampere else ["fp16"] if volta else [])]
    return ["fp32", *(["tf32"] if ampere else []), *(["fp16"] if volta else []), *(["bf16"] if ampere else [])]


@dataclass(frozen=True)
class Product:
    """A product that was checked and, where it was right and of its precision, timed."""

    dtype: str
    size: int
    error: ProductError
    right: bool
    precise: bool
    why: str
    rates: Rates | None


def run_product(work: Work, dtype: str, size: int, timing: Timing) -> Product:
    """Check first: no speed is measured of a result that is wrong or of another precision."""
    error = work.error()
    right, precise, why = judge_error(dtype, error)
    rates = measure(work, timing, 2.0 * size**3) if right and precise else None
    return Product(dtype, size, error, right, precise, why, rates)


def trial_tflops(work: Work) -> float:
    """TFLOP/s of a 4096 product, good enough to choose a size; idle clocks take some tenths of a second to rise."""
    spent = last = 0.0
    while spent < 0.3:
        last = max(work.seconds(2), 1e-9)
        spent += last
    return 2 * 2 * 4096**3 / last / 1e12


WRONG_REMEDY = {
    "cpu": "Do not compute on this host: test its memory (memtester, EDAC counters) and CPU, and reinstall torch.",
    "gpu": "Take this GPU out of use and run `dcgmi diag -r 3`; replace it if the fault comes back.",
}
PRECISION_REMEDY = {
    "cpu": "Unset ONEDNN_DEFAULT_FPMATH_MODE and DNNL_DEFAULT_FPMATH_MODE: they lower the precision of float32.",
    "gpu": "Unset NVIDIA_TF32_OVERRIDE and TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, then probe again.",
}


def product_checks(product: Product, who: str, gpu: str | None) -> list[Check]:
    """The verdicts on one product, for the CPU (`gpu` None) and for a GPU alike."""
    place = "gpu" if gpu else "cpu"
    prefix = f"matmul.{product.dtype}" if gpu else f"cpu.matmul.{product.dtype}"
    arithmetic, error = ARITHMETIC[product.dtype], product.error
    base = Check("", "pass", product.why, gpu=gpu, value=finite(error.relative), limit={"fail": arithmetic.high})
    parts = {"correct": base, "precision": base}
    idle = Check("", "not_run", "no speed of a wrong result", gpu=gpu)
    parts["throughput"] = parts["reference"] = idle
    if not product.right:
        message = f"{who}: the {product.dtype} matrix product is wrong: {product.why}"
        parts["correct"] = replace(base, status="fail", message=message, remedy=WRONG_REMEDY[place], severity="isolate")
        parts["precision"] = idle
    elif not product.precise:
        # A higher precision than asked for is right but no measurement of what its name says.
        status = "fail" if error.relative > arithmetic.high else "warn"
        message = f"{who}: {product.dtype} was asked for; {product.why}"
        remedy = PRECISION_REMEDY[place]
        parts["precision"] = replace(base, status=status, message=message, remedy=remedy, severity="config")
    elif product.rates:
        scale, unit = (1e12, "TFLOP/s") if gpu else (1e9, "GFLOP/s")
        speed = round(product.rates.sustained / scale, 2)
        parts["throughput"] = Check("", "info", f"{speed:g} {unit}", gpu=gpu, value=speed, unit=unit)
        parts["reference"] = replace(idle, message="no reference data yet: they come with issue 5")
    return [replace(check, id=f"{prefix}.{part}") for part, check in parts.items() if f"{prefix}.{part}" in CATALOGUE]


def matmul_result(product: Product, unit: str) -> MatmulResult:
    """A product as the report holds it."""
    rates, scale = product.rates, 1e12 if unit == "TFLOP/s" else 1e9
    names = ("burst", "sustained", "p10", "median", "p90")
    rate: dict[str, float | None] = {name: round(getattr(rates, name) / scale, 3) if rates else None for name in names}
    rate["cv"] = round(rates.cv, 4) if rates else None
    rate["batches"] = rates.batches if rates else None
    error = product.error
    status = "fail" if not product.right else "pass" if product.precise else "warn"
    if product.right and not product.precise and error.relative > ARITHMETIC[product.dtype].high:
        status = "fail"
    shape = [product.size] * 3
    return MatmulResult(
        product.dtype, shape, unit, rate, finite(error.relative), finite(error.element), product.precise, status
    )


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


# =====================================================================================================================
# 6. The run
# =====================================================================================================================

ENVIRONMENT = (
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "DNNL_DEFAULT_FPMATH_MODE",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    profile: str = "quick"
    json: str | None = None
    format: str = "text"
    require_gpu: bool = False
    expect_gpus: int | None = None
    timeout: float = 180.0
    strict: bool = False
    pending_reboot: bool = False
    verbose: bool = False
    roots: Roots = Roots()
    argv: tuple[str, ...] = ()


class Run:
    """One run of the probe: what has been found so far, and what it is doing now."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.started_at = datetime.datetime.now(datetime.timezone.utc)
        self.start = time.monotonic()
        self.environment = {name: os.environ.get(name) for name in ENVIRONMENT}
        self.host: Host | None = None
        self.checks: list[Check] = []
        self.gpus: list[GpuResult] = []
        self.cpu: dict[str, Any] | None = None
        self.phase = "starting"
        self.on_gpu = False
        self.lock = threading.Lock()

    def progress(self, phase: str, on_gpu: bool = False) -> None:
        """Say what is being done, to a person who waits; `on_gpu` where only a sick GPU would not come back."""
        self.phase, self.on_gpu = phase, on_gpu
        if self.options.verbose or sys.stderr.isatty():
            print(f"{TOOL}: {time.monotonic() - self.start:5.1f} s  {phase}", file=sys.stderr, flush=True)

    def out_of_time(self) -> bool:
        """Whether what is left is too little to start another measurement."""
        return time.monotonic() - self.start > 0.8 * self.options.timeout

    def mark(self, status: str, message: str, prefixes: str | tuple[str, ...], gpu: str | None = None) -> None:
        """Give every check of the catalogue that nobody judged a row: what did not run is never silently absent."""
        present = {check.id for check in self.checks if check.gpu == gpu}
        for check_id in CATALOGUE:
            if check_id.startswith(prefixes) and check_id not in present:
                self.checks.append(Check(check_id, status, message, gpu=gpu))

    # ------------------------------------------------------------------------------------------------ what is done

    def execute(self) -> None:
        """Look, walk the chain, measure. Every check of the catalogue ends up in the report."""
        self.progress("looking at the host")
        host = self.host = Host(self.options.roots, self.progress)
        self.checks += count_checks(host, self.options.require_gpu, self.options.expect_gpus)
        if host.gpu_count == 0:
            self._without_gpu(host)
        else:
            self._with_gpu(host)
        self.checks.append(Check("probe.complete", "pass", "ok"))

    def _without_gpu(self, host: Host) -> None:
        if host.torch.module is None:
            finding = torch_missing(host.torch)
            # Where the missing GPU is the verdict already, a missing torch must not turn it into "could not run".
            status = "not_run" if any(check.status == "fail" for check in self.checks) else finding.status
            self.checks.append(Check("software.torch", status, finding.message, finding.remedy, severity="config"))
        else:
            self.checks.append(Check("software.torch", "pass", f"torch {host.torch.version}"))
            self._measure_cpu(host.torch.module)
        self.mark("skipped", no_gpu_reason(host), ("software.", "matmul."))
        self.mark("not_run", "torch is not there", "cpu.")

    def _with_gpu(self, host: Host) -> None:
        self.checks += walk_chain(host, self.options.pending_reboot, self.progress)
        self.gpus = merge_gpus(host)
        causes = [check.status for check in self.checks if check.id in SOFTWARE_CHECKS]
        cause = next((status for status in causes if status not in ("pass", "warn")), None)
        if cause is None and host.torch.module is not None:
            self._measure_gpus(host.torch.module)
            self.mark("skipped", "the GPUs are measured, not the CPU", "cpu.")
            return
        for gpu in self.gpus:
            gpu.status = str(cause)
        if cause == "pending_reboot":
            self.mark("pending_reboot", "waits for the reboot", "matmul.")
            if host.torch.module is not None:
                self._measure_cpu(host.torch.module)
        self.mark("not_run", "the GPU's fault comes first", ("matmul.", "cpu."))

    def _measure_cpu(self, torch: ModuleType) -> None:
        rows: list[MatmulResult] = []
        self.cpu = {"threads": int(torch.get_num_threads()), "matmul": rows}
        for dtype in CPU_DTYPES:
            prefix = f"cpu.matmul.{dtype}."
            if self.out_of_time():
                self.mark("not_run", "out of time (--timeout)", prefix)
                continue
            self.progress(f"CPU: {dtype} matrix product")
            trial = make_work(torch, "cpu", dtype, 512)
            trial.seconds(1)
            gflops = 2 * 512**3 / max(trial.seconds(1), 1e-9) / 1e9
            size = cpu_size(gflops)
            if dtype != "fp32" and 2 * size**3 / gflops / 1e9 > 1.0:
                self.mark("skipped", f"slow in {dtype} on this CPU, about {gflops:.1f} GFLOP/s", prefix)
                continue
            product = run_product(
                make_work(torch, "cpu", dtype, size), dtype, size, TIMING["cpu", self.options.profile]
            )
            self.checks += product_checks(product, "the CPU", None)
            rows.append(matmul_result(product, "GFLOP/s"))

    def _measure_gpus(self, torch: ModuleType) -> None:
        full_accumulation(torch)
        for gpu in self.gpus:
            torch.cuda.set_device(gpu.index)
            known = gpu.key
            for dtype in gpu_dtypes(gpu.compute_capability or "0.0", self.options.profile):
                if self.out_of_time():
                    self.mark("not_run", "out of time (--timeout)", f"matmul.{dtype}.", known)
                    continue
                self.progress(f"GPU {gpu.index}: {dtype} matrix product", on_gpu=True)
                self._measure_gpu_dtype(torch, gpu, known, dtype)
            why = f"not in profile {self.options.profile}, or not in this GPU's hardware"
            self.mark("skipped", why, "matmul.", known)
            self._judge_gpu(gpu)
        self.progress("writing the report")

    def _judge_gpu(self, gpu: GpuResult) -> None:
        """The worst of a GPU's checks; that there is no reference yet is no verdict on it."""
        judged = [check for check in self.checks if check.gpu == gpu.key and not check.id.endswith(".reference")]
        gpu.status = worst(check.status for check in judged)

    def _measure_gpu_dtype(self, torch: ModuleType, gpu: GpuResult, known: str, dtype: str) -> None:
        device = f"cuda:{gpu.index}"
        try:
            with fp32_mode(torch, "tf32" if dtype == "tf32" else "ieee"):
                free = int(torch.cuda.mem_get_info(gpu.index)[0])
                size = gpu_size(trial_tflops(make_work(torch, device, dtype, 4096)), free)
                work = make_work(torch, device, dtype, size)
                product = run_product(work, dtype, size, TIMING["gpu", self.options.profile])
        except Exception as problem:  # CUDA's errors arrive as RuntimeError and torch's own types
            text = first_line(problem)
            # Memory that another process holds is no fault of the GPU, and no pass either.
            status = "unknown" if "out of memory" in text else "fail"
            message = f"GPU {gpu.index}: the {dtype} matrix product did not run: {text}"
            self.checks.append(Check(f"matmul.{dtype}.correct", status, message, kernel_remedy(text), known, "isolate"))
            self.mark("not_run", "the product did not run", f"matmul.{dtype}.", known)
            return
        finally:
            with contextlib.suppress(Exception):  # after a device fault even freeing raises; the fault is told already
                torch.cuda.empty_cache()
        self.checks += product_checks(product, f"GPU {gpu.index}", known)
        gpu.matmul.append(matmul_result(product, "TFLOP/s"))

    # ------------------------------------------------------------------------------------------------- how it ends

    def abort(self, status: str, message: str, remedy: str | None) -> None:
        """Close the report early: what is missing is `not_run`."""
        why = "the probe stopped before"
        for gpu in self.gpus:
            self.mark("not_run", why, "matmul.", gpu.key)
            self._judge_gpu(gpu)
        self.mark(
            "not_run", why, ("gpu.", "software.", "cpu.") if self.gpus else ("gpu.", "software.", "matmul.", "cpu.")
        )
        self.checks = [check for check in self.checks if check.id != "probe.complete"]
        self.checks.append(Check("probe.complete", status, message, remedy))


def no_gpu_reason(host: Host) -> str:
    """Why there is no GPU to measure."""
    if not host.pci_readable or host.wsl:
        return "no PCI bus shows NVIDIA GPUs here, and neither NVML nor torch sees one"
    if host.vfio:
        return f"{NO_GPU} for this host ({plural(len(host.vfio), 'GPU')} bound to vfio-pci)"
    others = host.other_gpus
    return NO_GPU + (f" ({' and '.join(others)} graphics is not measured)" if others else "")


def count_checks(host: Host, require: bool, expect: int | None) -> list[Check]:
    """Whether GPUs are there, and as many as were asked for."""
    found, reason = host.gpu_count, no_gpu_reason(host)
    remedy = "Check power, seating and the firmware's PCI settings (`lspci -d 10de:`), or probe without this demand."
    if found:
        present = Check("gpu.present", "pass", plural(found, "NVIDIA GPU"), value=found)
    elif require:
        present = Check("gpu.present", "fail", f"{reason}, and --require-gpu asks for one", remedy, value=0)
    else:
        present = Check("gpu.present", "skipped" if host.pci_readable and not host.wsl else "unknown", reason)
    if expect is None:
        return [present, Check("gpu.count", "skipped", "no number was expected (--expect-gpus)")]
    message = f"expected {plural(expect, 'NVIDIA GPU')}, found {found}"
    if expect == found:
        return [present, Check("gpu.count", "pass", message, value=found)]
    if host.vfio:
        message += f" ({len(host.vfio)} more bound to vfio-pci for virtual machines)"
    return [present, Check("gpu.count", "fail", message, remedy, severity="config", value=found)]


def make_work(torch: ModuleType, device: str, dtype: str, n: int) -> Work:
    """The one place where a measurement meets torch, for tests to replace."""
    return TorchWork(torch, device, dtype, n)


def plural(count: int, noun: str) -> str:
    """`1 GPU`, `2 GPUs`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def merge_gpus(host: Host) -> list[GpuResult]:
    """GPUs in torch's order with what NVML adds, by UUID or bus id; NVML's or PCI's list where torch sees none."""
    names = ("uuid", "pci_bus_id", "name", "compute_capability", "sm_count", "memory_total_bytes", "mig")
    merged: list[GpuResult] = []
    for device in host.torch.devices or host.nvml.devices:
        same = [
            other
            for other in host.nvml.devices
            if any(device.get(key) and device.get(key) == other.get(key) for key in ("uuid", "pci_bus_id"))
        ]
        known = {**(same[0] if same else {}), **{key: value for key, value in device.items() if value is not None}}
        wanted: dict[str, Any] = {name: known.get(name) for name in names}
        merged.append(GpuResult(int(device["index"]), **wanted))
    return merged or [GpuResult(index, pci_bus_id=gpu.address) for index, gpu in enumerate(host.pci)]


class Watch:
    """Ends the run at its deadline or on SIGINT and SIGTERM, with a report.

    A thread of its own: a hung device never returns to Python, where an ordinary signal handler would run. The signals
    are blocked in every other thread and taken by this one.
    """

    SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})

    def __init__(self, run: Run) -> None:
        self.run = run
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._wait, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)

    def _wait(self) -> None:
        end = self.run.start + self.run.options.timeout
        while not self.over.is_set():
            caught = signal.sigtimedwait(self.SIGNALS, 0.1)
            if caught is None and time.monotonic() < end:
                continue
            with self.run.lock:  # the run may have come to its end meanwhile
                if not self.over.is_set():
                    self._stop(caught.si_signo if caught else None)

    def _stop(self, signal_number: int | None) -> NoReturn:
        run, code = self.run, None
        if signal_number is not None:
            name = signal.Signals(signal_number).name
            code = 128 + signal_number
            run.abort("error", f"stopped by {name} while {run.phase}", "Run the probe again.")
        elif run.on_gpu:
            remedy = "Read `dmesg | grep -i xid`; a GPU that hangs needs a reset or a reboot. Or give more --timeout."
            run.abort("fail", f"no answer within {run.options.timeout:g} s while {run.phase}", remedy)
        else:
            run.abort("error", f"not done within {run.options.timeout:g} s while {run.phase}", "Give more --timeout.")
        try:
            code = finish(run, code)
        finally:
            os._exit(EXIT_CANNOT_RUN if code is None else code)


# =====================================================================================================================
# 7. The renderings
# =====================================================================================================================


def summary(run: Run, status: str) -> str:
    """The verdict in one sentence."""
    bad = [
        check
        for check in run.checks
        if check.status == status and status in ("fail", "error", "pending_reboot", "warn")
    ]
    if bad:
        more = len({check.id for check in bad}) - 1
        rest = f" (and {more} more)" if more and status in ("fail", "error", "warn") else ""
        return bad[0].message + rest
    if status == "fail":
        judged = [check for check in run.checks if check.status in ("warn", "unknown", "explained")]
        return f"--strict: {judged[0].message}"
    if any(gpu.matmul for gpu in run.gpus):
        return f"{plural(len(run.gpus), 'GPU')} computed right; speed is reported, not judged (no reference data yet)"
    why = next((check.message for check in run.checks if check.id == "gpu.present"), NO_GPU)
    return f"the CPU computed right; {why}" if status == "pass" else f"nothing was measured; {why}"


def read_host_facts(run: Run) -> dict[str, Any]:
    """The report's `host`."""
    roots, host = run.options.roots, run.host
    release = read_text(roots.base / "etc/os-release") or ""
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', release, re.MULTILINE)
    cpuinfo = read_text(roots.proc / "cpuinfo") or ""
    model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    nodes = len(list(roots.sysfs.glob("devices/system/node/node[0-9]*")))
    hypervisor = re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE)
    return {
        "hostname": platform.node() or None,
        "kernel": platform.release() or None,
        "os": name.group(1) if name else None,
        "architecture": platform.machine() or None,
        "python": platform.python_version(),
        "container": host.container if host else None,
        "virtualization": "wsl" if host and host.wsl else "vm" if hypervisor else None,
        "boot_id": read_text(roots.proc / "sys/kernel/random/boot_id"),
        "pci_nvidia_devices": len(host.pci) if host and host.pci_readable else None,
        "pci_nvidia_vfio": len(host.vfio) if host and host.pci_readable else None,
        "cpu_model": model.group(1).strip() if model else None,
        "numa_nodes": nodes or None,
    }


def read_software_facts(run: Run) -> dict[str, Any]:
    """The report's `software`: only what has been read already, because a report of a hung host must not ask again."""
    known = run.host.__dict__ if run.host else {}
    nvml: NvmlView = known.get("nvml", NvmlView(None))
    torch: TorchView = known.get("torch", TorchView(None))
    loaded, on_disk = known.get("loaded"), known.get("on_disk")
    return {
        "driver": loaded or nvml.driver,
        "driver_module_on_disk": on_disk,
        "cuda_driver": cuda_text(nvml.cuda_driver) if nvml.cuda_driver else None,
        "torch": torch.version,
        "torch_cuda": torch.cuda,
        "torch_arch_list": list(torch.arch_list) if torch.cuda else None,
        "nvml": nvml.package,
        "nvml_code": nvml.code,
        "reboot_needed": loaded != on_disk if loaded and on_disk else None,
        "env_overrides": run.environment,
    }


def build_report(run: Run, exit_code: int | None = None) -> dict[str, Any]:
    """The whole report. A given exit code (a signal's) replaces the verdict's."""
    status, code = judge(run.checks, run.options.strict)
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": TOOL, "version": VERSION, "profile": run.options.profile, "args": list(run.options.argv)},
        "started_at": run.started_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "duration_s": round(time.monotonic() - run.start, 2),
        "status": status,
        "exit_code": code if exit_code is None else exit_code,
        "summary": summary(run, status),
        "host": read_host_facts(run),
        "software": read_software_facts(run),
        "cpu": {**run.cpu, "matmul": [asdict(row) for row in run.cpu["matmul"]]} if run.cpu else None,
        "gpus": [asdict(gpu) for gpu in run.gpus],
        "checks": [asdict(check) for check in run.checks],
    }


def _object(properties: dict[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [key for key in properties if key not in optional]}


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the report. A later 1.x may add fields; it takes none away."""
    kinds: list[dict[str, Any]] = [{"type": [kind, "null"]} for kind in ("string", "number", "integer", "boolean")]
    text, number, integer, flag = kinds
    status = {"enum": list(STATUSES)}
    matmul = _object(
        {
            "dtype": {"enum": list(GPU_DTYPES)},
            "shape": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 3},
            "unit": {"enum": ["GFLOP/s", "TFLOP/s"]},
            "rate": _object(dict.fromkeys(("burst", "sustained", "p10", "median", "p90", "cv", "batches"), number)),
            "rel_error": number,
            "max_element_error": number,
            "precision_verified": flag,
            "status": status,
        }
    )
    gpu = _object(
        {
            "index": {"type": "integer"},
            **dict.fromkeys(("uuid", "pci_bus_id", "name", "compute_capability"), text),
            "sm_count": integer,
            "memory_total_bytes": integer,
            "mig": flag,
            "status": status,
            "matmul": {"type": "array", "items": matmul},
        }
    )
    check = _object(
        {
            "id": {"enum": list(CATALOGUE)},
            "status": status,
            "message": {"type": "string", "minLength": 1},
            "remedy": text,
            "gpu": text,
            "severity": {"enum": list(SEVERITIES)},
            "value": number,
            "unit": text,
            "limit": {"type": ["object", "null"], "additionalProperties": {"type": "number"}},
            "evidence": {"type": "object"},
        }
    )
    host = dict.fromkeys(("hostname", "kernel", "os", "architecture", "virtualization", "boot_id", "cpu_model"), text)
    host.update(python={"type": "string"}, container=flag)
    host.update(dict.fromkeys(("pci_nvidia_devices", "pci_nvidia_vfio", "numa_nodes"), integer))
    software = dict.fromkeys(("driver", "driver_module_on_disk", "cuda_driver", "torch", "torch_cuda", "nvml"), text)
    software.update(torch_arch_list={"type": ["array", "null"], "items": {"type": "string"}}, nvml_code=integer)
    software.update(reboot_needed=flag, env_overrides={"type": "object", "additionalProperties": text})
    strings = {"type": "array", "items": {"type": "string"}}
    report = _object(
        {
            "schema_version": {"const": SCHEMA_VERSION},
            "tool": _object(
                {"name": {"const": TOOL}, "version": {"type": "string"}, "profile": {"type": "string"}, "args": strings}
            ),
            "started_at": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
            "duration_s": {"type": "number", "minimum": 0},
            "status": {"enum": ["pass", "warn", "fail", "skipped", "pending_reboot", "error"]},
            "exit_code": {"type": "integer", "minimum": 0, "maximum": 255},
            "summary": {"type": "string", "minLength": 1},
            "host": _object(host),
            "software": _object(software),
            "cpu": {
                "anyOf": [
                    {"type": "null"},
                    _object({"threads": {"type": "integer"}, "matmul": {"type": "array", "items": matmul}}),
                ]
            },
            "gpus": {"type": "array", "items": gpu},
            "checks": {"type": "array", "items": check, "minItems": 1},
        }
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"{TOOL} report {SCHEMA_VERSION}",
        **report,
    }


def _rates_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """`fp32 50.1, bf16 786 TFLOP/s`; a product that was not timed shows its status."""
    parts = []
    for row in rows:
        value = row["rate"]["sustained"]
        parts.append(f"{row['dtype']} {value:.3g}" if value is not None else f"{row['dtype']} {row['status'].upper()}")
    return ", ".join(parts) + (f" {rows[0]['unit']}" if rows else "")


def render_text(report: Mapping[str, Any]) -> str:
    """One line a GPU or the CPU, then only problems with what to do, then the verdict."""
    software, host = report["software"], report["host"]
    torch = f"torch {software['torch']}" if software["torch"] else "no torch"
    driver = f", driver {software['driver']}" if software["driver"] else ""
    lines = [f"{TOOL} {VERSION} {report['tool']['profile']} on {host['hostname']}: {torch}{driver}"]
    for gpu in report["gpus"]:
        memory = gpu["memory_total_bytes"]
        facts = (
            gpu["name"],
            gpu["pci_bus_id"],
            f"cc {gpu['compute_capability']}" if gpu["compute_capability"] else None,
        )
        known = "  ".join(str(fact) for fact in (*facts, f"{memory / 1024**3:.0f} GiB" if memory else None) if fact)
        lines.append(f"GPU{gpu['index']}  {known}  {_rates_text(gpu['matmul'])}  {gpu['status'].upper()}")
    if report["cpu"] and report["cpu"]["matmul"]:
        threads = plural(report["cpu"]["threads"], "thread")
        lines.append(f"CPU   {host['cpu_model'] or 'unknown model'}  {threads}  {_rates_text(report['cpu']['matmul'])}")
    for check in report["checks"]:
        if check["status"] in ("fail", "error", "warn", "unknown", "pending_reboot") and check["remedy"]:
            lines.append(f"{check['status'].upper()}  {check['id']}: {check['message']}")
            lines.append(f"      do: {check['remedy']}")
    lines.append(f"{report['status'].upper()}  {report['summary']}  ({report['duration_s']:.1f} s)")
    return "\n".join(lines)


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never half of it, also after a power cut."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink()
        raise


def finish(run: Run, exit_code: int | None = None) -> int:
    """Write the report where it was asked for and return the exit code."""
    report = build_report(run, exit_code)
    options = run.options
    document = json.dumps(report, indent=2, allow_nan=False) + "\n"
    to_stdout = options.json == "-" or options.format == "json"
    if options.json not in (None, "-"):
        write_atomically(Path(str(options.json)), document)
    if to_stdout:
        sys.stdout.write(document)
    if options.format == "text":
        print(render_text(report), file=sys.stderr if to_stdout else sys.stdout)
    sys.stdout.flush()
    return int(report["exit_code"])


# =====================================================================================================================
# 8. The command line
# =====================================================================================================================


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
    top.add_argument("--json", metavar="FILE", help="write the report as JSON to FILE, - for standard output")
    top.add_argument("--format", choices=("text", "json", "none"), default="text", help="what to print (default: text)")
    top.add_argument("--require-gpu", action="store_true", help="no NVIDIA GPU is a failure")
    top.add_argument("--expect-gpus", type=_count, metavar="N", help="another number of NVIDIA GPUs is a failure")
    top.add_argument(
        "--timeout", type=_duration, metavar="S", help="seconds for the whole run (default: 180, standard 600)"
    )
    top.add_argument("--strict", action="store_true", help="warnings and unknowns are failures")
    top.add_argument(
        "--pending-reboot",
        action="store_true",
        help="a reboot is due: report what it cures as pending_reboot, measure the CPU",
    )
    top.add_argument("--verbose", action="store_true", help="progress on standard error also when it is no terminal")
    top.add_argument("--schema", action="store_true", help="print the JSON Schema of the report")
    top.add_argument("--list-checks", action="store_true", help="print every check id")
    top.add_argument("--explain", metavar="CHECK", help="say what a check is")
    top.add_argument("--version", action="version", version=f"{TOOL} {VERSION}")
    for name, default in (("--sysfs-root", "/sys"), ("--proc-root", "/proc"), ("--dev-root", "/dev")):
        top.add_argument(name, type=Path, default=Path(default), help=argparse.SUPPRESS)
    return top


def check_output_path(top: argparse.ArgumentParser, target: str | None) -> None:
    """A report that cannot be written is found before the measurement, not after it."""
    if target is None or target == "-":
        return
    path = Path(target)
    if path.is_dir():
        top.error(f"--json {target}: is a directory; name a file")
    if not path.parent.is_dir():
        top.error(f"--json {target}: the directory {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        top.error(f"--json {target}: the directory {path.parent} is not writable for this user")


def inform(arguments: argparse.Namespace, top: argparse.ArgumentParser) -> bool:
    """The verbs that measure nothing; True when one was asked for."""
    if arguments.schema:
        print(json.dumps(schema(), indent=2))
    elif arguments.list_checks:
        print("\n".join(CATALOGUE))
    elif arguments.explain:
        if arguments.explain not in CATALOGUE:
            top.error(f"--explain {arguments.explain}: no such check; --list-checks names them all")
        print(f"{arguments.explain}: {CATALOGUE[arguments.explain]}")
    else:
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """Run the probe with these arguments (without the program's name) and return its exit code."""
    top = parser()
    arguments = top.parse_args(argv)
    if inform(arguments, top):
        return EXIT_OK
    check_output_path(top, arguments.json)
    run = Run(
        Options(
            profile=arguments.profile,
            json=arguments.json,
            format=arguments.format,
            require_gpu=arguments.require_gpu,
            expect_gpus=arguments.expect_gpus,
            timeout=arguments.timeout or DEFAULT_TIMEOUT[arguments.profile],
            strict=arguments.strict,
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
