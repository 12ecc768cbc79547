"""The catalogue: every id that a report can hold, and what it means."""

from __future__ import annotations

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
