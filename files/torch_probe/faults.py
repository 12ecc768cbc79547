"""The chain: causes why a GPU that is there cannot compute, in the order in which they hide each other."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Callable

from torch_probe.facts import Host, Tell, TorchView, cuda_text, read_missing_nodes, read_secure_boot
from torch_probe.report import Check, Gpu, Severity, Status, gpu_key


@dataclass(frozen=True)
class Finding:
    """A cause and its remedy. `reboot_cures` marks those that vanish when a pending reboot is done."""

    message: str
    remedy: str
    status: Status = "fail"
    severity: Severity = "config"
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
    if view.code == 18 and host.user_space:
        cause = NVML_CAUSES[18]
        message = f"{cause.message}: library {host.user_space}, module {host.loaded or 'unknown'}"
        return replace(cause, message=message)
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


def names_a_gpu(chosen: str, host: Host) -> bool:
    """Whether CUDA finds a GPU by the first entry of this list; it reads no further than the first that is wrong."""
    first = chosen.split(",")[0].strip()
    if first.startswith("MIG-"):
        return True
    if first.startswith("GPU-"):
        uuids = [str(device.get("uuid")) for device in host.nvml.devices]
        return any(uuid.lower().startswith(first.lower()) for uuid in uuids)
    return first.isdigit() and int(first) < max(len(host.nvml.devices), host.gpu_count)


def step_visible_gpus(host: Host) -> Finding | None:
    """8. PCI, NVML and torch agree, but for what CUDA_VISIBLE_DEVICES chooses."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = len(host.torch.devices)
    if chosen is not None:
        # Where it names a GPU that is there, something else hides it, which the next step has in CUDA's own words.
        if seen or names_a_gpu(chosen, host):
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


WRONG_KERNEL = "the product of two small matrices is wrong"


def run_tiny_kernel(torch: ModuleType, index: int) -> str | None:
    """A product of two integer matrices, exact in float32 and in TF32; None when it is right."""
    a = torch.arange(64 * 64).remainder(7).reshape(64, 64).to(torch.float32)
    b = torch.arange(64 * 64).remainder(5).reshape(64, 64).to(torch.float32)
    device = f"cuda:{index}"
    got = (a.to(device) @ b.to(device)).cpu()
    return None if bool(torch.equal(got, a @ b)) else WRONG_KERNEL


def kernel_check(gpus: Sequence[Gpu], bad: Mapping[str, str], pending_reboot: bool) -> Check:
    """9. A real kernel runs on every GPU and is right. `bad` has those on which it did not, with CUDA's own words.

    Where others compute, they are measured: one lost GPU must not hide what the other seven are worth.
    """
    if not bad:
        return Check("software.kernel", "pass", "ok")
    numbers = {gpu_key(gpu): gpu["index"] for gpu in gpus}
    key, text = next(iter(bad.items()))
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    wrong = WRONG_KERNEL in text
    message = f"GPU {numbers[key]}{': ' if wrong else ' does not compute: '}{text}{more}"
    remedy = "Take this GPU out of use; run `dcgmi diag -r 3`." if wrong else kernel_remedy(text)
    status: Status = "pending_reboot" if pending_reboot and not wrong else "fail"
    evidence = {"gpus": sorted(bad), "others_compute": len(bad) < len(gpus)}
    severity: Severity = "isolate" if wrong or len(bad) < len(gpus) else "config"
    return Check("software.kernel", status, message, remedy, severity=severity, evidence=evidence)


CHAIN: tuple[tuple[str, Callable[[Host], Finding | None]], ...] = (
    ("software.pci", step_pci),
    ("software.driver", step_driver),
    ("software.nvml", step_nvml),
    ("software.device_nodes", step_device_nodes),
    ("software.torch", step_torch),
    ("software.cuda_version", step_cuda_version),
    ("software.architectures", step_architectures),
    ("software.visible_gpus", step_visible_gpus),
)


def walk_chain(host: Host, pending_reboot: bool, tell: Tell) -> Iterator[Check]:
    """One check a step. After the first cause the rest is `not_run`: it would only repeat the cause in other words."""
    cause: str | None = None
    for check_id, step in CHAIN:
        if cause:
            yield Check(check_id, "not_run", f"{cause} comes first")
            continue
        tell(f"checking {check_id}", check_id == "software.nvml")
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
