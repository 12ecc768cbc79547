"""One run of the probe: look, walk the chain, measure. What it finds is data; the judge makes verdicts of it."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from torch_probe import measure
from torch_probe.checks import CATALOGUE, CPU_DTYPES, GPU_DTYPES, SOFTWARE_CHECKS
from torch_probe.common import TOOL, first_line, plural
from torch_probe.facts import Host, NvmlView, Roots, TorchView, cuda_text, read_text
from torch_probe.faults import kernel_remedy, torch_missing, walk_chain
from torch_probe.judge import Rules
from torch_probe.output import Outputs
from torch_probe.report import Check, Gpu, HostFacts, Measured, Mode, Outcome, Software, Status, Step, blank, gpu_key

NO_GPU = "no NVIDIA GPU on the PCI bus"

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
    outputs: Outputs = field(default_factory=Outputs)
    require_gpu: bool = False
    expect_gpus: int | None = None
    timeout: float = 180.0
    rules: Rules = field(default_factory=Rules)
    pending_reboot: bool = False
    verbose: bool = False
    roots: Roots = field(default_factory=Roots)
    argv: tuple[str, ...] = ()


class Run:
    """One run of the probe: what has been found so far, and what it is doing now."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.started_at = datetime.datetime.now(datetime.timezone.utc)
        self.start = time.monotonic()
        self.environment = {name: os.environ.get(name) for name in ENVIRONMENT}
        self.host: Host | None = None
        self.look: list[Check] = []
        self.gpus: list[Gpu] = []
        self.cpu: Any = None
        self.steps: list[Step] = []
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

    def note(
        self, step: str, outcome: Outcome, message: str | None = None, gpu: Gpu | None = None, mode: Mode | None = None
    ) -> None:
        """Record what became of a step."""
        key = gpu_key(gpu) if gpu else None
        self.steps.append(
            {"gpu": key, "step": step, "mode": mode, "outcome": outcome, "message": message, "seconds": None}
        )

    def measured(self) -> Measured:
        """The data so far."""
        return {
            "host": host_facts(self),
            "software": software_facts(self),
            "cpu": self.cpu,
            "gpus": self.gpus,
            "p2p": None,
            "nccl": None,
            "steps": self.steps,
        }

    # ------------------------------------------------------------------------------------------------ what is done

    def execute(self) -> None:
        """Look, walk the chain, measure."""
        self.progress("looking at the host")
        host = self.host = Host(self.options.roots, self.progress)
        self.look += count_checks(host, self.options.require_gpu, self.options.expect_gpus)
        if host.gpu_count == 0:
            self._without_gpu(host)
        else:
            self._with_gpu(host)
        self.look.append(Check("probe.complete", "pass", "ok"))

    def _without_gpu(self, host: Host) -> None:
        self.note("gpu", "skipped", no_gpu_reason(host))
        if host.torch.module is None:
            finding = torch_missing(host.torch)
            # Where the missing GPU is the verdict already, a missing torch must not turn it into "could not run".
            status: Status = "not_run" if any(check.status == "fail" for check in self.look) else finding.status
            self.look.append(Check("software.torch", status, finding.message, finding.remedy, severity="config"))
            self.note("cpu", "not_run", "torch is not there")
        else:
            self.look.append(Check("software.torch", "pass", f"torch {host.torch.version}"))
            self._measure_cpu(host.torch.module)
        self._fill_look("skipped", no_gpu_reason(host))

    def _fill_look(self, status: Status, message: str) -> None:
        present = {check.id for check in self.look}
        ids = [name for name in CATALOGUE if name.startswith(("gpu.", "software.")) and name not in present]
        self.look += [Check(check_id, status, message) for check_id in ids]

    def _with_gpu(self, host: Host) -> None:
        self.look += walk_chain(host, self.options.pending_reboot, self.progress)
        self.gpus = merge_gpus(host)
        causes = [check.status for check in self.look if check.id in SOFTWARE_CHECKS]
        cause = next((status for status in causes if status not in ("pass", "warn")), None)
        if cause is None and host.torch.module is not None:
            self.note("cpu", "skipped", "the GPUs are measured, not the CPU")
            self._measure_gpus(host.torch.module)
            return
        if cause == "pending_reboot":
            self.note("gpu", "pending_reboot", "waits for the reboot")
            if host.torch.module is not None:
                self._measure_cpu(host.torch.module)
        self.note("gpu", "not_run", "the GPU's fault comes first")
        self.note("cpu", "not_run", "the GPU's fault comes first")

    def _measure_cpu(self, torch: ModuleType) -> None:
        self.cpu = {"threads": int(torch.get_num_threads()), "matmul": []}
        for dtype in CPU_DTYPES:
            step = f"cpu.matmul.{dtype}"
            if self.out_of_time():
                self.note(step, "not_run", "out of time (--timeout)")
                continue
            self.progress(f"CPU: {dtype} matrix product")
            trial = measure.make_work(torch, "cpu", dtype, 512)
            trial.seconds(1)
            gflops = 2 * 512**3 / max(trial.seconds(1), 1e-9) / 1e9
            size = measure.cpu_size(gflops)
            if dtype != "fp32" and 2 * size**3 / gflops / 1e9 > 1.0:
                self.note(step, "skipped", f"slow in {dtype} on this CPU, about {gflops:.1f} GFLOP/s")
                continue
            work = measure.make_work(torch, "cpu", dtype, size)
            product = measure.run_product(work, dtype, size, measure.TIMING["cpu", self.options.profile])
            self.cpu["matmul"].append(measure.cpu_row(product))
            self.note(step, "done")

    def _measure_gpus(self, torch: ModuleType) -> None:
        measure.full_accumulation(torch)
        for gpu in self.gpus:
            torch.cuda.set_device(gpu["index"])
            wanted = measure.gpu_dtypes(gpu["compute_capability"] or "0.0", self.options.profile)
            for dtype in wanted:
                if self.out_of_time():
                    self.note(f"matmul.{dtype}", "not_run", "out of time (--timeout)", gpu)
                    continue
                self.progress(f"GPU {gpu['index']}: {dtype} matrix product", on_gpu=True)
                self._measure_gpu_dtype(torch, gpu, dtype)
            why = f"not in profile {self.options.profile}, or not in this GPU's hardware"
            for dtype in GPU_DTYPES:
                if dtype not in wanted:
                    self.note(f"matmul.{dtype}", "skipped", why, gpu)
        self.progress("writing the report")

    def _measure_gpu_dtype(self, torch: ModuleType, gpu: Gpu, dtype: str) -> None:
        step, device = f"matmul.{dtype}", f"cuda:{gpu['index']}"
        try:
            with measure.fp32_mode(torch, "tf32" if dtype == "tf32" else "ieee"):
                free = int(torch.cuda.mem_get_info(gpu["index"])[0])
                size = measure.gpu_size(measure.trial_tflops(measure.make_work(torch, device, dtype, 4096)), free)
                work = measure.make_work(torch, device, dtype, size)
                product = measure.run_product(work, dtype, size, measure.TIMING["gpu", self.options.profile])
        except Exception as problem:  # CUDA's errors arrive as RuntimeError and torch's own types
            text = first_line(problem)
            # Memory that another process holds is no fault of the GPU, and no pass either.
            outcome: Outcome = "unknown" if "out of memory" in text else "failed"
            message = f"GPU {gpu['index']}: the {dtype} matrix product did not run: {text}. {kernel_remedy(text)}"
            self.note(step, outcome, message, gpu, "alone")
            return
        finally:
            with contextlib.suppress(Exception):  # after a device fault even freeing raises; the fault is told already
                torch.cuda.empty_cache()
        gpu["matmul"].append(measure.gpu_row(product, "alone"))
        self.note(step, "done", None, gpu, "alone")

    # ------------------------------------------------------------------------------------------------- how it ends

    def abort(self, status: Status, message: str, remedy: str | None) -> None:
        """Close the run early: what is missing is `not_run`."""
        why = "the probe stopped before"
        self._fill_look("not_run", why)
        if not self.gpus:
            self.note("gpu", "not_run", why)
        self.note("cpu", "not_run", why)
        self.look = [check for check in self.look if check.id != "probe.complete"]
        self.look.append(Check("probe.complete", status, message, remedy))


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


def merge_gpus(host: Host) -> list[Gpu]:
    """GPUs in torch's order with what NVML adds, by UUID or bus id; NVML's or PCI's list where torch sees none."""
    merged: list[Gpu] = []
    for device in host.torch.devices or host.nvml.devices:
        same = [
            other
            for other in host.nvml.devices
            if any(device.get(key) and device.get(key) == other.get(key) for key in ("uuid", "pci_bus_id"))
        ]
        known = {**(same[0] if same else {}), **{key: value for key, value in device.items() if value is not None}}
        gpu: Gpu = blank(Gpu)
        gpu.update({key: value for key, value in known.items() if key in gpu})  # type: ignore[typeddict-item]
        merged.append(gpu)
    if not merged:
        for index, card in enumerate(host.pci):
            gpu = blank(Gpu)
            gpu.update({"index": index, "pci_bus_id": card.address})
            merged.append(gpu)
    return merged


# ------------------------------------------------------------------------------------------------- the host's facts


def host_facts(run: Run) -> HostFacts:
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
        "kernel_log": None,
    }


def software_facts(run: Run) -> Software:
    """The report's `software`: only what has been read already, because a report of a hung host must not ask again."""
    known = run.host.__dict__ if run.host else {}
    nvml: NvmlView = known.get("nvml", NvmlView(None))
    torch: TorchView = known.get("torch", TorchView(None))
    loaded, on_disk = known.get("loaded"), known.get("on_disk")
    return {
        "driver": loaded or nvml.driver,
        "driver_module_on_disk": on_disk,
        "driver_user_space": None,
        "cuda_driver": cuda_text(nvml.cuda_driver) if nvml.cuda_driver else None,
        "torch": torch.version,
        "torch_cuda": torch.cuda,
        "torch_arch_list": list(torch.arch_list) if torch.cuda else None,
        "nvml": nvml.package,
        "nvml_code": nvml.code,
        "reboot_needed": loaded != on_disk if loaded and on_disk else None,
        "env_overrides": run.environment,
    }
