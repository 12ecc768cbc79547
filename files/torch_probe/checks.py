"""The catalogue: every id that a report can hold, and what it means."""

from __future__ import annotations

GPU_DTYPES = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")
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


_SPEED = {
    "reference": "against what this model should give: a cited measurement of it, or its rated figure times what its "
    "class reaches. `skipped` where the table has nothing.",
    "peers": "against the median of the equal GPUs in this host; with two, only the slower is suspected.",
    "history": "against the last five passes of this very GPU with the same software and limits, and its best.",
}


def _matmul(dtype: str) -> dict[str, str]:
    name = f"matmul.{dtype}"
    return {
        f"{name}.correct": f"64 sampled rows of a {dtype} product agree with float64 on the CPU, every element within "
        "its bound, and the whole result is finite. A wrong result is `fail` whatever the speed.",
        f"{name}.precision": f"The error is the one that {dtype} arithmetic has. A float32 product with TF32's error "
        "is named as such.",
        f"{name}.throughput": "TFLOP/s, the median of the last third of the window after a warm-up until stable. "
        "Reported, not judged.",
        **{f"{name}.{part}": f"TFLOP/s {text}" for part, text in _SPEED.items()},
        f"{name}.efficiency": "TFLOP/s over SM count x rate x clock under load. It judges where no reference is in "
        "force: an unknown model, or a known cause that explains less speed. Else `info`.",
        f"{name}.together": "TFLOP/s while all GPUs work against alone: shared power or cooling shows here.",
    }


def _bandwidth(name: str, what: str) -> dict[str, str]:
    return {f"bandwidth.{name}.{part}": f"{what} {text}" for part, text in _SPEED.items()}


def _gpu_checks() -> dict[str, str]:
    """What every GPU gets."""
    checks = {
        "steps.complete": "Every step of the plan came to its end on this GPU. A step that hangs is killed and fails.",
        "integrity.truth": "The worst element of all products against float64, over its dtype's ordinary worst.",
        "integrity.repeat": "The same product again and again has the same bits: transient faults show here.",
        "integrity.vote": "Equal GPUs have the same bits for the same product; three or more name the odd one.",
        "integrity.history": "The bits are those of this GPU's earlier passes with the same software.",
        "integrity.memory": "Patterns written over most of the free memory read back right (profile soak).",
        "integrity.copies": "Every copy between host and GPU has the digest of its source.",
    }
    for dtype in GPU_DTYPES:
        checks.update(_matmul(dtype))
    checks.update(_bandwidth("device_copy", "GB/s of a copy in the GPU's own memory, read and written,"))
    checks.update(_bandwidth("h2d", "GB/s from pinned host memory"))
    checks.update(_bandwidth("d2h", "GB/s to pinned host memory"))
    checks.update(
        {
            "throttle.thermal": "The driver did not slow it for heat (cumulative counter, else sampled bit).",
            "throttle.hardware": "The hardware's emergency brake (heat, power supply) did not act.",
            "throttle.locked": "Its clocks are not locked by configuration.",
            "throttle.power": "Whether it worked at its power limit, as a busy GPU does. Reported.",
            "power.limit": "The enforced power limit against the default one. A cap explains less speed.",
            "pcie.width": "The link has the lanes that GPU and slot can do together. x8 by design is no fault.",
            "pcie.generation": "The link's generation under load; an idle GPU's says nothing.",
            "pcie.errors": "No fatal or non-fatal errors, and no stream of replays during the run.",
            "memory.ecc": "No uncorrectable errors, and no stream of corrected ones.",
            "memory.remap": "No failed or pending row remap, and spare rows left.",
            "memory.retired": "Retired pages (Turing and older) below NVIDIA's criterion.",
            "memory.inforom": "The GPU's inforom is valid.",
            "memory.recovery": "The driver recommends no recovery action.",
            "nvlink.links": "Every NVLink is up that should be.",
            "nvlink.errors": "No NVLink errors or replays during the run.",
            "nvlink.fabric": "The NVSwitch fabric is up.",
            "xid.run": "No Xid during the run. One of another program's own fault is `info`.",
            "xid.before": "No Xid since boot that asks for a reset or a repair.",
            "settings.persistence": "Persistence mode is on where no display keeps the driver loaded.",
            "settings.exclusive": "Nothing else used the GPU, so that its speed is its own.",
            "settings.vbios": "Equal GPUs have equal VBIOS versions.",
            "training.autocast": "Forward and backward under autocast are right.",
            "training.compile": "`torch.compile` works and computes the same.",
        }
    )
    return checks


GPU_CHECKS = _gpu_checks()


def _catalogue() -> dict[str, str]:
    """Every check id with what it means, in the order of a report."""
    checks = {
        "gpu.present": "An NVIDIA GPU is on the PCI bus (read from sysfs, no driver needed). None is `skipped`, and "
        "`fail` with --require-gpu. GPUs given to virtual machines (vfio-pci) are not counted.",
        "gpu.count": "The number of GPUs is the one that --expect-gpus names.",
        **SOFTWARE_CHECKS,
        **GPU_CHECKS,
        "p2p.copies": "Copies between GPUs have the digest of their source; with NVLink they must be possible.",
        "nccl.allreduce": "An all-reduce over every GPU gives the right sum.",
    }
    for dtype in CPU_DTYPES:
        checks[f"cpu.matmul.{dtype}.correct"] = f"64 sampled rows of a {dtype} product on the CPU agree with float64."
        checks[f"cpu.matmul.{dtype}.precision"] = f"The error is the one that {dtype} arithmetic has."
        checks[f"cpu.matmul.{dtype}.throughput"] = "GFLOP/s of the CPU. Reported, never judged."
    checks["beside.agrees"] = "The probe that --beside starts, in a container as a rule, agrees on GPUs and verdict."
    checks["probe.complete"] = "The probe came to its end: no internal error, no signal, within --timeout."
    return checks


CATALOGUE = _catalogue()
