"""The look at the host: PCI, driver, device nodes, NVML, torch, each a small reader."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.metadata
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

from torch_probe.common import first_line


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


def slot_width(roots: Roots, address: str | None) -> int | None:
    """The lanes of the port above a device. A slot that is narrower than its GPU is a choice of the board's maker."""
    if not address:
        return None
    device = roots.sysfs / "bus/pci/devices" / address
    if not device.exists():
        return None
    width = read_text(device.resolve().parent / "max_link_width")
    # Without a link the kernel says 0 or 255.
    return int(width) if width and width.isdigit() and 0 < int(width) < 64 else None


def link_errors(roots: Roots, address: str | None) -> dict[str, int | None]:
    """The PCI Express errors that the kernel has counted for a device since boot."""
    found: dict[str, int | None] = {}
    for kind, name in (("fatal", "FATAL"), ("nonfatal", "NONFATAL"), ("correctable", "COR")):
        text = read_text(roots.sysfs / "bus/pci/devices" / (address or "none") / f"aer_dev_{kind}") or ""
        total = re.search(rf"^TOTAL_ERR_{name} (\d+)$", text, re.MULTILINE)
        found[kind] = int(total.group(1)) if total else None
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


def read_user_space(roots: Roots) -> str | None:
    """Version of the driver's management library that programs load: the file that its name for them points to."""
    places = ("usr/lib/*-linux-gnu", "usr/lib64", "usr/lib", "usr/lib/*-linux-gnu/nvidia/current", "usr/lib/wsl/lib")
    for place in places:
        for link in sorted(roots.base.glob(f"{place}/libnvidia-ml.so.1")):
            found = re.search(r"\.so\.(\d+\.[\d.]+)$", link.resolve().name)
            if found:
                return found.group(1)
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


def torch_device(torch: ModuleType, index: int) -> dict[str, Any]:
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
        "l2_cache_bytes": int(getattr(known, "L2_cache_size", 0)) or None,
        "integrated": bool(getattr(known, "is_integrated", 0)),
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
                devices = tuple(torch_device(torch, index) for index in range(torch.cuda.device_count()))
        except Exception as error:  # the driver's faults come through here as RuntimeError and AssertionError
            problem = first_line(error)
    return TorchView(torch, problem, version, cuda, hip, arch_list, available, devices)


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
    def user_space(self) -> str | None:
        """Version of the driver's library."""
        return read_user_space(self.roots)

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


def cuda_text(version: int) -> str:
    """NVML's 12040 as 12.4."""
    return f"{version // 1000}.{version % 1000 // 10}"
