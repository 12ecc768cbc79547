"""One run of the probe: look, walk the chain, measure. What it finds is data; the judge makes verdicts of it."""

from __future__ import annotations

import datetime
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Callable, Literal

from torch_probe import measure
from torch_probe.checks import CATALOGUE, CPU_DTYPES, SOFTWARE_CHECKS
from torch_probe.common import TOOL, plural
from torch_probe.conduct import Conductor, Workers
from torch_probe.device import Device
from torch_probe.facts import Host, NvmlView, Roots, TorchView, cuda_text, read_text
from torch_probe.faults import kernel_check, torch_missing, walk_chain
from torch_probe.judge import Rules
from torch_probe.output import Outputs
from torch_probe.plan import CPU_TIMING, Wishes
from torch_probe.report import (
    Check,
    Cpu,
    CpuMatmul,
    Gpu,
    HostFacts,
    Measured,
    Outcome,
    Software,
    Status,
    Step,
    blank,
    gpu_key,
)
from torch_probe.workers import INTERNAL, Pool

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
    wishes: Wishes = field(default_factory=Wishes)
    gpus: tuple[str, ...] = ()  # UUIDs, addresses or numbers; empty is all
    serials: bool = False
    stand_in: bool = False  # for tests: the CPU takes the GPU's place


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
        self.cpu: Cpu | None = None
        self.steps: list[Step] = []
        self.conductor: Conductor | None = None
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

    def note(self, step: str, outcome: Outcome, message: str | None = None) -> None:
        """Record what became of a step of the host."""
        self.steps.append(
            {"gpu": None, "step": step, "mode": None, "outcome": outcome, "message": message, "seconds": None}
        )

    def measured(self) -> Measured:
        """The data so far."""
        conductor = self.conductor
        return {
            "host": host_facts(self),
            "software": software_facts(self),
            "cpu": self.cpu,
            "gpus": self.gpus,
            "p2p": conductor.p2p if conductor else None,
            "nccl": conductor.nccl if conductor else None,
            "steps": self.steps + (conductor.steps if conductor else []),
        }

    # ------------------------------------------------------------------------------------------------ what is done

    def execute(self) -> None:
        """Look, walk the chain, measure."""
        self.progress("looking at the host")
        host = self.host = Host(self.options.roots, self.progress)
        if self.options.stand_in:
            self._with_stand_in()
        else:
            self.look += count_checks(host, self.options.require_gpu, self.options.expect_gpus)
            if host.gpu_count == 0:
                self._without_gpu(host)
            else:
                self._with_gpu(host)
        self.progress("writing the report")
        self.look.append(self._complete())

    def _complete(self) -> Check:
        """A mistake of this program in a worker ends the run as one that could not be done, whatever else passed."""
        for step in self.conductor.steps if self.conductor else ():
            if INTERNAL in (step["message"] or ""):
                return Check("probe.complete", "error", str(step["message"]), "Please report it, with --verbose.")
        return Check("probe.complete", "pass", "ok")

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
        """The chain, then the measuring, which has the chain's last step: a kernel on every GPU."""
        pending = self.options.pending_reboot
        self.look += walk_chain(host, pending, self.progress)
        self.gpus = self._chosen(merge_gpus(host))
        cause = cause_of(self.look)
        if cause is None:
            self._measure_gpus()
        else:
            self.look.append(Check("software.kernel", "not_run", f"{cause.id} comes first"))
            if host.nvml.code == 0 and cause.id not in ("software.pci", "software.driver", "software.nvml"):
                # What NVML tells without torch is told: the counters may name the cause.
                conductor = self._conduct()
                conductor.begin()
                conductor.finish()
        cause = cause or cause_of(self.look)
        if cause is None:
            self.note("cpu", "skipped", "the GPUs are measured, not the CPU")
            return
        if cause.status == "pending_reboot":
            self.note("gpu", "pending_reboot", "waits for the reboot")
            if host.torch.module is not None:
                self._measure_cpu(host.torch.module)
        self.note("gpu", "not_run", "the GPU's fault comes first")
        self.note("cpu", "not_run", "the GPU's fault comes first")

    def _chosen(self, gpus: list[Gpu]) -> list[Gpu]:
        """Those of --gpus. A name that no GPU has is an error of the caller, found before anything is measured."""
        wanted = self.options.gpus
        for name in wanted:
            if not any(name in names_of(gpu) for gpu in gpus):
                known = ", ".join(f"{gpu['index']} ({gpu_key(gpu)})" for gpu in gpus) or "none"
                raise UsageError(f"--gpus {name}: no such GPU here; there are {known}")
        return [gpu for gpu in gpus if not wanted or any(name in names_of(gpu) for name in wanted)]

    def _conduct(self, device: str = "cuda") -> Conductor:
        workers = make_workers(lambda key, text: self.progress(f"{key}: {text}"))
        options = self.options
        self.conductor = Conductor(
            self.gpus, workers, options.wishes, options.roots, self.progress, options.serials, device
        )
        return self.conductor

    def _measure_gpus(self) -> None:
        conductor = self._conduct()
        conductor.begin()
        bad = conductor.start()
        self.look.append(kernel_check(self.gpus, bad, self.options.pending_reboot))
        conductor.measure([gpu_key(gpu) for gpu in self.gpus if gpu_key(gpu) not in bad])
        conductor.finish()

    def _with_stand_in(self) -> None:
        """The whole way of a GPU on the CPU, in small: what is tested where there is no GPU."""
        gpu: Gpu = blank(Gpu)
        gpu.update({"index": 0, "uuid": "GPU-stand-in", "name": "CPU stand-in", "compute_capability": "8.9"})
        self.gpus = [gpu]
        conductor = self._conduct("cpu")
        conductor.begin()
        bad = conductor.start()
        self.look.append(kernel_check(self.gpus, bad, False))
        self._fill_look("skipped", "the CPU takes the place of a GPU")
        conductor.measure([] if bad else [gpu_key(gpu)])
        conductor.finish()
        self.note("cpu", "skipped", "it takes the place of a GPU")

    def _measure_cpu(self, torch: ModuleType) -> None:
        rows: list[CpuMatmul] = []
        self.cpu = {"threads": int(torch.get_num_threads()), "matmul": rows}
        device = Device(torch, "cpu")
        for dtype in CPU_DTYPES:
            step = f"cpu.matmul.{dtype}"
            if self.out_of_time():
                self.note(step, "not_run", "out of time (--timeout)")
                continue
            self.progress(f"CPU: {dtype} matrix product")
            small = (512, 512, 512)
            trial = measure.make_work(device, dtype, small)
            trial.start(1).seconds()
            gflops = measure.operations(small) / max(trial.start(1).seconds(), 1e-9) / 1e9
            size = measure.cpu_size(gflops)
            if dtype != "fp32" and 2 * size**3 / gflops / 1e9 > 1.0:
                self.note(step, "skipped", f"slow in {dtype} on this CPU, about {gflops:.1f} GFLOP/s")
                continue
            shape = (size, size, size)
            work = measure.make_work(device, dtype, shape)
            product = measure.run_product(work, dtype, shape, CPU_TIMING[self.options.profile])
            rows.append(measure.cpu_row(product))
            self.note(step, "done")

    # ------------------------------------------------------------------------------------------------- how it ends

    def abort(self, status: Status, message: str, remedy: str | None) -> None:
        """Close the run early: what is missing is `not_run`, and no worker is left behind."""
        if self.conductor:
            self.conductor.stopping.set()
            self.conductor.workers.close()
        why = "the probe stopped before"
        self._fill_look("not_run", why)
        if not any(gpu["matmul"] for gpu in self.gpus):
            self.note("gpu", "not_run", why)
        self.note("cpu", "not_run", why)
        self.look = [check for check in self.look if check.id != "probe.complete"]
        self.look.append(Check("probe.complete", status, message, remedy))


class UsageError(Exception):
    """A wish that cannot be fulfilled, in one sentence."""


def make_workers(tell: Callable[[str, str], None]) -> Workers:
    """The one place where processes are started, for tests to replace."""
    return Pool(tell)


def names_of(gpu: Gpu) -> set[str]:
    """What --gpus may call it."""
    names = {str(gpu["index"]), gpu["uuid"], gpu["pci_bus_id"]}
    return {name for name in names if name}


def cause_of(look: Sequence[Check]) -> Check | None:
    """The first check of the chain that keeps every GPU from being measured."""
    for check in look:
        if check.id in SOFTWARE_CHECKS and check.status not in ("pass", "warn"):
            return None if check.evidence.get("others_compute") else check
    return None


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
        "kernel_log": kernel_log_state(run),
    }


def kernel_log_state(run: Run) -> Literal["read", "unreadable"] | None:
    """Whether Xids of before the run could be looked for; None where nobody looked."""
    conductor = run.conductor
    if conductor is None or not conductor.log_asked:
        return None
    return "unreadable" if conductor.log is None else "read"


def software_facts(run: Run) -> Software:
    """The report's `software`: only what has been read already, because a report of a hung host must not ask again."""
    known = run.host.__dict__ if run.host else {}
    nvml: NvmlView = known.get("nvml", NvmlView(None))
    torch: TorchView = known.get("torch", TorchView(None))
    loaded, on_disk = known.get("loaded"), known.get("on_disk")
    return {
        "driver": loaded or nvml.driver,
        "driver_module_on_disk": on_disk,
        "driver_user_space": known.get("user_space"),
        "cuda_driver": cuda_text(nvml.cuda_driver) if nvml.cuda_driver else None,
        "torch": torch.version,
        "torch_cuda": torch.cuda,
        "torch_arch_list": list(torch.arch_list) if torch.cuda else None,
        "nvml": nvml.package,
        "nvml_code": nvml.code,
        "reboot_needed": loaded != on_disk if loaded and on_disk else None,
        "env_overrides": run.environment,
    }
