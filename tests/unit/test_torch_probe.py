"""The probe without torch and without a GPU: trees for the host, stand-ins for torch, NVML and the products."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from torch_probe import (
    arithmetic,
    bandwidth,
    cli,
    common,
    conduct,
    device,
    facts,
    faults,
    integrity,
    judge,
    kernel_log,
    measure,
    output,
    steps,
    training,
    workers,
)
from torch_probe import checks as catalogue
from torch_probe import report as reports
from torch_probe import run as running
from torch_probe import watch as watching

PROBE = Path(__file__).parents[2] / "files" / "torch_probe.py"
GOOD = arithmetic.ProductError(relative=3.5e-7, element=2e-6, finite=True)
ERRORS = {
    "fp32": GOOD,
    "tf32": arithmetic.ProductError(2.9e-4, 1e-3, True),
    "fp16": arithmetic.ProductError(2.1e-4, 1e-3, True),
    "bf16": arithmetic.ProductError(1.66e-3, 9e-3, True),
    "fp8": arithmetic.ProductError(1.66e-3, 9e-3, True),
    "int8": arithmetic.ProductError(0.0, 0.0, True),
}
SPEEDS = {"fp32": 5e13, "tf32": 2.5e14, "fp16": 5e14, "bf16": 5e14, "fp8": 1e15, "int8": 1e15}  # at 1 GHz
H100 = {"name": "NVIDIA H100", "major": 9, "minor": 0, "sms": 132, "memory": 80 * 1024**3}
ARCHES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


# --------------------------------------------------------------------------------------------------- stand-ins


@dataclass
class Machine:
    """A host as a table of what its readers would find. The default is a healthy one with an H100."""

    gpus: Sequence[str | None] = ("nvidia",)  # the kernel driver of each
    lost: Sequence[int] = ()
    others: Sequence[str] = ()  # vendors of further display controllers
    pci: bool = True
    loaded: str | None = "580.95.05"
    on_disk: str | None = "580.95.05"
    secure_boot: bool = False
    container: bool = False
    wsl: bool = False
    nodes: Sequence[str] = ("nvidiactl", "nvidia-uvm", "nvidia0")
    nvml_code: int = 0
    nvml_devices: int = 1
    nvml_lost: Sequence[int] = ()
    mig: bool = False
    cuda_driver: int = 13000
    torch: str | None = "2.14.1+cu130"  # None: not importable
    torch_cuda: str | None = "13.0"
    torch_hip: str | None = None
    arches: Sequence[str] = field(default_factory=lambda: list(ARCHES))
    torch_devices: int = 1
    card: dict[str, Any] = field(default_factory=lambda: dict(H100))
    kernel_error: str | None = None
    kernel_right: bool = True
    kernel_bad: Sequence[int] = ()  # GPUs on which alone the above is so
    pinned: int | None = None  # the GPU that the worker at work sees as its first


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def address(index: int) -> str:
    return f"0000:{0x1B + index:02x}:00.0"


def build_tree(root: Path, machine: Machine) -> facts.Roots:
    devices = root / "sys/bus/pci/devices"
    (root / "proc").mkdir(parents=True)
    (root / "dev").mkdir()
    if machine.pci:
        devices.mkdir(parents=True)
        cards = [("0x10de", driver) for driver in machine.gpus] + [(vendor, None) for vendor in machine.others]
        for index, (vendor, driver) in enumerate(cards):
            device = devices / address(index)
            write(device / "vendor", vendor + "\n")
            write(device / "class", "0x030200\n")
            (device / "config").write_bytes(b"\xff" * 64 if index in machine.lost else b"\xde\x10" + b"\0" * 62)
            if driver:
                holder = root / "sys/bus/pci/drivers" / driver
                holder.mkdir(parents=True, exist_ok=True)
                (device / "driver").symlink_to(holder)
        # An NVIDIA sound function and a bridge of another vendor must not be counted.
        for name, vendor, kind in (("0000:1b:00.1", "0x10de", "0x040300"), ("0000:00:01.0", "0x8086", "0x060400")):
            write(devices / name / "vendor", vendor)
            write(devices / name / "class", kind)
    if machine.loaded:
        write(root / "sys/module/nvidia/version", machine.loaded)
    if machine.secure_boot:
        name = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
        write(root / name, "")
        (root / name).write_bytes(b"\x06\0\0\0\x01")
    if machine.container:
        write(root / ".dockerenv", "")
    release = "6.6.87.2-microsoft-standard-WSL2" if machine.wsl else "6.12.0-amd64"
    write(root / "proc/sys/kernel/osrelease", release)
    for node in machine.nodes:
        write(root / "dev" / node, "")
    return facts.Roots(root / "sys", root / "proc", root / "dev")


class NvmlError(Exception):
    """As pynvml's, with the code in `value`."""

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


def fake_nvml(machine: Machine) -> Any:
    nvml: Any = ModuleType("pynvml")

    def init() -> None:
        if machine.nvml_code:
            raise NvmlError(machine.nvml_code)

    def handle(index: int) -> int:
        if index in machine.nvml_lost:
            raise NvmlError(15)
        return index

    def unsupported(_: int) -> None:
        raise NvmlError(3)

    nvml.NVMLError = NvmlError
    nvml.nvmlInit, nvml.nvmlShutdown = init, lambda: None
    nvml.nvmlSystemGetDriverVersion = lambda: b"580.95.05"  # bytes, as in old versions of the package
    nvml.nvmlSystemGetCudaDriverVersion_v2 = lambda: machine.cuda_driver
    nvml.nvmlDeviceGetCount = lambda: machine.nvml_devices
    nvml.nvmlDeviceGetHandleByIndex = handle
    nvml.nvmlDeviceGetHandleByUUID = lambda uuid: int(str(uuid).rpartition("-")[2])
    nvml.nvmlDeviceGetUUID = lambda index: f"GPU-{index}"
    nvml.nvmlDeviceGetName = lambda index: machine.card["name"]
    nvml.nvmlDeviceGetPciInfo = lambda index: SimpleNamespace(busId=f"0000{address(index)}".upper())
    nvml.nvmlDeviceGetMemoryInfo = unsupported
    nvml.nvmlDeviceGetCudaComputeCapability = lambda index: (machine.card["major"], machine.card["minor"])
    nvml.nvmlDeviceGetMigMode = lambda index: (1, 1) if machine.mig else unsupported(index)
    return nvml


def fake_torch(machine: Machine) -> Any:
    torch: Any = ModuleType("torch")
    card = machine.card

    def properties(device: int | str) -> SimpleNamespace:
        index = device if isinstance(device, int) else int(device.rpartition(":")[2])
        index = index if machine.pinned is None else machine.pinned
        return SimpleNamespace(
            name=card["name"],
            major=card["major"],
            minor=card["minor"],
            multi_processor_count=card["sms"],
            total_memory=card["memory"],
            pci_bus_id=0x1B + index,
            pci_device_id=0,
            pci_domain_id=0,
            uuid=str(index),
        )

    torch.__version__ = machine.torch
    torch.version = SimpleNamespace(cuda=machine.torch_cuda, hip=machine.torch_hip)
    torch.get_num_threads = lambda: 2
    torch.set_num_threads = lambda count: None
    torch._scaled_mm = torch._int_mm = torch.float8_e4m3fn = object()
    torch.cuda = SimpleNamespace(
        is_available=lambda: machine.torch_devices > 0,
        device_count=lambda: machine.torch_devices,
        get_arch_list=lambda: list(machine.arches),
        get_device_properties=properties,
        mem_get_info=lambda index: (card["memory"], card["memory"]),
        set_device=lambda index: None,
        empty_cache=lambda: None,
    )
    torch.backends = SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace(fp32_precision="none")))
    return torch


class FakeWork:
    """A product of a set speed (operations a second) and error; `series` makes its batches differ."""

    def __init__(
        self, n: int, speed: float, error: arithmetic.ProductError = GOOD, series: Sequence[float] = (1.0,)
    ) -> None:
        self.n, self.speed, self.result, self.series, self.calls = n, speed, error, series, 0

    def start(self, count: int) -> device.Token:
        factor = self.series[min(self.calls, len(self.series) - 1)]
        self.calls += 1
        return device.Token(None, None, count * 2.0 * self.n**3 / (self.speed * factor))

    def spin(self) -> device.Token | None:
        return device.Token(None, None, device.SPIN_CYCLES / 1e9)

    def error(self, columns: bool = False) -> arithmetic.ProductError:
        return self.result

    def digest(self) -> str:
        return "d1ce"


class InlineWorkers:
    """Workers without processes: the same steps, in this one, each worker with the GPU that it is pinned to."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pids: set[int] = set()
        self.visible: dict[str, str | None] = {}
        self.handlers: dict[str, Any] = {}
        self.gone: dict[str, str] = {}

    def start(self, key: str, visible: str | None) -> None:
        line: Any = SimpleNamespace(ready=lambda: None, progress=lambda text: None)
        self.handlers[key] = steps.handlers(line)
        self.visible[key] = visible
        self.gone.pop(key, None)

    def run(self, commands: Any, deadline: float) -> dict[str, workers.Answer]:
        answers = {}
        for key, command in commands.items():
            if key in self.gone:
                answers[key] = workers.Answer("not_run", {}, self.gone[key], 0.0)
                continue
            pinned = str(self.visible[key])
            self.machine.pinned = int(pinned.rpartition("-")[2]) if pinned[:3] in ("GPU", pinned) else None
            try:
                data = json.loads(json.dumps(self.handlers[key][command["do"]](command)))  # as a pipe passes it
                answers[key] = workers.Answer("done", data, None, 0.1)
            except Exception as error:
                outcome, message, broken = workers.describe(error)
                if broken:
                    self.gone[key] = "an error of its GPU came before"
                answers[key] = workers.Answer(outcome, {}, message, 0.1)
            self.machine.pinned = None
        return answers

    def is_gone(self, key: str) -> bool:
        return key in self.gone

    def end(self, key: str, why: str) -> None:
        self.gone[key] = why

    def close(self) -> None:
        self.handlers.clear()


Probe = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Probe:
    """Run the whole probe on a machine; returns exit code, report, and the text on standard output."""
    for name in (*running.ENVIRONMENT, "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)

    def run(machine: Machine, *options: str, **products: arithmetic.ProductError) -> tuple[int, dict[str, Any], str]:
        roots = build_tree(tmp_path / "host", machine)
        monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(machine))
        monkeypatch.setitem(sys.modules, "torch", fake_torch(machine) if machine.torch else None)
        monkeypatch.setattr(facts, "read_driver_on_disk", lambda: machine.on_disk)

        def kernel(torch: ModuleType, index: int) -> str | None:
            if machine.kernel_bad and machine.pinned not in machine.kernel_bad:
                return None
            if machine.kernel_error:
                raise RuntimeError(machine.kernel_error)
            return None if machine.kernel_right else "the product of two small matrices is wrong"

        def work(where: Any, dtype: str, shape: tuple[int, int, int], plant: Any = None) -> FakeWork:
            return FakeWork(
                shape[0], 1e11 if where.name == "cpu" else SPEEDS[dtype], products.get(dtype, ERRORS[dtype])
            )

        def device_bandwidth(*_: Any) -> dict[str, Any]:
            return {"device_copy_gb_s": 2900.0, "device_add_gb_s": 2950.0, "copies_verified": True}

        def host_bandwidth(device: Any, seconds: float, near: Any, far: Any, look: Any, size: int) -> dict[str, Any]:
            look()
            return {"h2d_gb_s": 55.0, "d2h_gb_s": 54.0, "bidir_gb_s": 98.0, "copies_verified": True}

        autocast = {"dtype": "bf16", "steps_per_s": 900.0, "loss_error": 1e-3, "gradient_error": 5e-3}
        compiled = {"outcome": "done", "message": None, "seconds": 8.0, "max_error": 1e-6}
        monkeypatch.setattr(steps, "run_tiny_kernel", kernel)
        monkeypatch.setattr(running, "make_workers", lambda tell: InlineWorkers(machine))
        monkeypatch.setattr(integrity, "repeat", lambda *_: ("d1ce", 8, 0))
        monkeypatch.setattr(bandwidth, "device_bandwidth", device_bandwidth)
        monkeypatch.setattr(bandwidth, "host_bandwidth", host_bandwidth)
        monkeypatch.setattr(training, "check_autocast", lambda *_: {**autocast, "finite": True, "loss_fell": True})
        monkeypatch.setattr(training, "check_compile", lambda *_: compiled)
        monkeypatch.setattr(kernel_log, "read_log", lambda path: [])
        monkeypatch.setattr(measure, "make_work", work)
        target = tmp_path / "report.json"
        trees = [f"--sysfs-root={roots.sysfs}", f"--proc-root={roots.proc}", f"--dev-root={roots.dev}"]
        code = cli.main([*trees, f"--json={target}", *options])
        report = json.loads(target.read_text(encoding="utf-8"))
        jsonschema.validate(report, reports.schema(list(catalogue.CATALOGUE)), cls=jsonschema.Draft202012Validator)
        assert report["exit_code"] == code
        return code, report, capsys.readouterr().out

    return run


def by_id(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["id"]: check for check in report["checks"]}


# ------------------------------------------------------------------------------------------------ no GPU

NO_GPU = Machine(gpus=(), loaded=None, on_disk=None, nodes=(), nvml_code=12, nvml_devices=0, torch_devices=0)


def without_gpu(**changes: Any) -> Machine:
    return Machine(**{**NO_GPU.__dict__, **changes})


def test_a_host_without_gpu_passes_for_what_was_measured_and_skips_the_rest(run_on: Probe) -> None:
    code, report, text = run_on(without_gpu())
    checks = by_id(report)
    assert (code, report["status"]) == (0, "pass")
    assert checks["gpu.present"]["status"] == "skipped"
    assert checks["gpu.present"]["message"] == "no NVIDIA GPU on the PCI bus"
    assert {checks[name]["status"] for name in checks if name.startswith("matmul.")} == {"skipped"}
    assert checks["cpu.matmul.fp32.correct"]["status"] == "pass"
    assert checks["cpu.matmul.fp32.throughput"]["status"] == "info"  # no verdict on a CPU's speed
    assert checks["cpu.matmul.fp32.throughput"]["value"] == pytest.approx(100)
    assert report["gpus"] == []
    assert set(checks) == set(catalogue.CATALOGUE)
    assert text.splitlines()[-1].startswith("PASS  the CPU computed right; no NVIDIA GPU on the PCI bus")
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    ("machine", "options", "code", "status", "check", "words"),
    [
        (NO_GPU, ["--require-gpu"], 1, "fail", "gpu.present", "--require-gpu"),
        (NO_GPU, ["--expect-gpus", "2"], 1, "fail", "gpu.count", "expected 2 NVIDIA GPUs, found 0"),
        (NO_GPU, ["--expect-gpus", "0"], 0, "pass", "gpu.count", "found 0"),
        (without_gpu(torch=None), [], 2, "error", "software.torch", "torch not importable"),
        (without_gpu(torch=None), ["--require-gpu"], 1, "fail", "gpu.present", "no NVIDIA GPU"),
        (without_gpu(others=("0x1002",)), [], 0, "pass", "gpu.present", "AMD graphics is not measured"),
        (without_gpu(gpus=("vfio-pci",)), [], 0, "pass", "gpu.present", "1 GPU bound to vfio-pci"),
        (without_gpu(gpus=("vfio-pci",)), ["--expect-gpus=1"], 1, "fail", "gpu.count", "1 more bound to vfio-pci"),
        (without_gpu(pci=False), [], 0, "pass", "gpu.present", "neither NVML nor torch"),
        (without_gpu(pci=False), ["--strict"], 1, "fail", "gpu.present", "neither NVML nor torch"),
        (without_gpu(pci=False), ["--require-gpu"], 1, "fail", "gpu.present", "--require-gpu"),
        (without_gpu(wsl=True), [], 0, "pass", "gpu.present", "neither NVML nor torch"),
    ],
)
def test_no_gpu(
    run_on: Probe, machine: Machine, options: list[str], code: int, status: str, check: str, words: str
) -> None:
    got, report, _ = run_on(machine, *options)
    row = by_id(report)[check]
    assert (got, report["status"]) == (code, status)
    assert words in row["message"]
    if row["status"] in ("fail", "error"):
        assert row["remedy"]


@pytest.mark.parametrize(
    ("error", "check", "words"),
    [
        (arithmetic.ProductError(0.5, 10.0, True), "correct", "relative error"),
        (arithmetic.ProductError(3.5e-7, 0.5, True), "correct", "single elements"),
        (arithmetic.ProductError(math.nan, math.nan, True), "correct", "wrong"),
        (arithmetic.ProductError(3.5e-7, 1e-6, False), "correct", "not finite"),
        (arithmetic.ProductError(2.9e-4, 1e-3, True), "precision", "tf32"),
        (arithmetic.ProductError(1.7e-3, 9e-3, True), "precision", "bf16"),
    ],
)
def test_a_wrong_cpu_result_fails_and_has_no_speed(run_on: Probe, error: Any, check: str, words: str) -> None:
    code, report, text = run_on(without_gpu(), fp32=error)
    row = by_id(report)[f"cpu.matmul.fp32.{check}"]
    assert (code, report["status"], row["status"]) == (1, "fail", "fail")
    assert words in row["message"]
    assert row["remedy"] in text
    assert by_id(report)["cpu.matmul.fp32.throughput"]["status"] == "not_run"
    assert report["cpu"]["matmul"][0]["gflops"]["sustained"] is None


# ------------------------------------------------------------------------------------------------ the chain


@pytest.mark.parametrize(
    ("changes", "check", "words", "remedy"),
    [
        ({"lost": (0,)}, "software.pci", "does not answer on the PCI bus", "Power"),
        ({"gpus": ("nouveau",), "loaded": None}, "software.driver", "nouveau holds the GPU", "nvidia_driver"),
        ({"gpus": (None,), "loaded": None, "on_disk": None}, "software.driver", "no NVIDIA driver", "nvidia_driver"),
        ({"gpus": (None,), "loaded": None}, "software.driver", "on disk but not loaded", "modprobe nvidia"),
        ({"gpus": (None,), "loaded": None, "secure_boot": True}, "software.driver", "Secure Boot", "mokutil"),
        (
            {"loaded": "570.1"},
            "software.driver",
            "loaded nvidia module is 570.1, the one on disk is 580.95.05",
            "Reboot",
        ),
        ({"gpus": ("nvidia", None)}, "software.driver", "does not hold 0000:1c:00.0 (no driver)", "flavour"),
        ({"gpus": ("nvidia", "nouveau")}, "software.driver", "0000:1c:00.0 (nouveau)", "flavour"),
        ({"loaded": None, "container": True}, "software.driver", "container's host", "on the host"),
        ({"nvml_code": 9}, "software.nvml", "not loaded", "Reboot"),
        ({"nvml_code": 18}, "software.nvml", "differ in version (18)", "Reboot"),
        ({"nvml_code": 15}, "software.nvml", "lost", "Power"),
        ({"nvml_code": 999}, "software.nvml", "NVML error 999", "dmesg"),
        ({"nvml_lost": (0,)}, "software.nvml", "GPU 0: NVML error 15", "reset"),
        ({"nvml_code": 12, "torch_devices": 0}, "software.nvml", "libnvidia-ml.so.1", "nvidia_driver"),
        ({"nvml_code": 12, "torch_devices": 0, "container": True}, "software.nvml", "container", "CDI"),
        ({"nodes": (), "torch_devices": 0, "container": True}, "software.device_nodes", "container has no", "CDI"),
        (
            {"nodes": ("nvidiactl", "nvidia0"), "torch_devices": 0},
            "software.device_nodes",
            "nvidia-uvm",
            "nvidia-modprobe",
        ),
        ({"torch_cuda": None, "torch": "2.14.1+cpu"}, "software.torch", "CPU-only wheel", "cuXXX wheel"),
        ({"torch_cuda": None, "torch_hip": "6.4"}, "software.torch", "ROCm", "CUDA build"),
        ({"cuda_driver": 12040, "torch_devices": 0}, "software.cuda_version", "CUDA 12.4", "newer driver"),
        ({"card": {**H100, "major": 7, "minor": 0}}, "software.architectures", "sm_70", "cu126"),
        (
            {"card": {**H100, "major": 12, "minor": 0}, "arches": ["sm_80", "sm_90"]},
            "software.architectures",
            "no kernels for sm_120",
            "12.8",
        ),
        (
            {"gpus": ("nvidia", "nvidia"), "nvml_devices": 2},
            "software.visible_gpus",
            "torch sees 1 of 2 GPUs; missing: 0000:1c:00.0",
            "dmesg",
        ),
        ({"kernel_error": "CUDA error 802: system not yet initialized"}, "software.kernel", "802", "Fabric Manager"),
        ({"kernel_error": "no kernel image is available"}, "software.kernel", "no kernel image", "wheel"),
        ({"kernel_right": False}, "software.kernel", "wrong", "out of use"),
    ],
)
def test_a_gpu_that_cannot_compute_fails_with_the_first_cause(
    run_on: Probe, changes: dict[str, Any], check: str, words: str, remedy: str
) -> None:
    code, report, text = run_on(Machine(**changes))
    checks = by_id(report)
    assert (code, report["status"], checks[check]["status"]) == (1, "fail", "fail")
    assert words in checks[check]["message"]
    assert remedy in checks[check]["remedy"]
    assert report["summary"].startswith(checks[check]["message"])
    ids = list(catalogue.SOFTWARE_CHECKS)
    place = ids.index(check)
    assert {checks[name]["status"] for name in ids[:place]} <= {"pass", "warn"}
    assert {checks[name]["status"] for name in ids[place + 1 :]} <= {"not_run"}
    assert {checks[name]["status"] for name in checks if name.startswith(("matmul.", "cpu."))} == {"not_run"}
    assert text.count("do: ") == 1


def test_the_steps_cover_nine_causes() -> None:
    """The ninth, a real kernel, is run by the workers."""
    assert [*(name for name, _ in faults.CHAIN), "software.kernel"] == list(catalogue.SOFTWARE_CHECKS)
    assert len(catalogue.SOFTWARE_CHECKS) == 9


@pytest.mark.parametrize(
    ("changes", "exit_code", "status"),
    [
        ({}, 0, "pass"),
        ({"nvml_code": 12}, 0, "warn"),  # a container with the compute capability alone
        ({"nodes": ("nvidia0", "nvidiactl")}, 0, "pass"),  # nvidia-modprobe made the missing node on demand
        ({"mig": True, "nvml_devices": 1, "torch_devices": 1}, 0, "pass"),
        ({"gpus": (), "wsl": True, "nodes": (), "loaded": None, "on_disk": None}, 0, "pass"),
        ({"gpus": ("nvidia", "vfio-pci")}, 0, "pass"),
        ({"gpus": ("nvidia",) * 8, "container": True, "nvml_devices": 1}, 0, "pass"),  # one of eight was passed in
        ({"card": {**H100, "major": 8, "minor": 9}}, 0, "pass"),  # sm_86 serves 8.9
        ({"torch": None}, 2, "error"),
    ],
)
def test_what_is_no_fault(run_on: Probe, changes: dict[str, Any], exit_code: int, status: str) -> None:
    code, report, _ = run_on(Machine(**changes))
    assert (code, report["status"]) == (exit_code, status)


@pytest.mark.parametrize("value", ["all", "", "-1", "GPU-nonsense"])
def test_cuda_visible_devices_that_hides_everything_is_named(
    run_on: Probe, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    code, report, _ = run_on(Machine(torch_devices=0))
    row = by_id(report)["software.visible_gpus"]
    assert (code, row["status"]) == (1, "fail")
    assert f"CUDA_VISIBLE_DEVICES={value!r}" in row["message"]
    assert report["software"]["env_overrides"]["CUDA_VISIBLE_DEVICES"] == value


def test_cuda_visible_devices_that_chooses_is_no_fault(run_on: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    code, report, _ = run_on(Machine(gpus=("nvidia",) * 8, nvml_devices=8, torch_devices=1))
    assert (code, len(report["gpus"])) == (0, 1)


@pytest.mark.parametrize(
    ("changes", "code", "status"),
    [
        ({"gpus": (None,), "loaded": None, "torch_devices": 0}, 0, "pending_reboot"),
        ({"loaded": "570.1"}, 0, "pending_reboot"),
        ({"torch_cuda": None}, 1, "fail"),  # no reboot makes a CUDA build of it
    ],
)
def test_pending_reboot(run_on: Probe, changes: dict[str, Any], code: int, status: str) -> None:
    got, report, text = run_on(Machine(**changes), "--pending-reboot")
    checks = by_id(report)
    assert (got, report["status"]) == (code, status)
    if status == "pending_reboot":
        assert checks["matmul.fp32.correct"]["status"] == "pending_reboot"
        assert checks["cpu.matmul.fp32.correct"]["status"] == "pass"
        assert "PENDING_REBOOT" in text


@pytest.mark.parametrize(
    ("capability", "arches", "served"),
    [
        ("9.0", ["sm_90"], True),
        ("8.9", ["sm_86"], True),
        ("8.0", ["sm_86"], False),
        ("12.1", ["sm_120"], True),
        ("12.0", ["sm_90", "compute_90"], True),
        ("9.0", ["sm_90a"], True),
        ("10.3", ["sm_100f"], True),
        ("10.3", ["sm_100a"], False),
        ("7.0", ["sm_75", "sm_80"], False),
        ("6.1", ["sm_60"], True),
    ],
)
def test_has_kernels(capability: str, arches: list[str], served: bool) -> None:
    assert faults.has_kernels(capability, arches) is served


# ------------------------------------------------------------------------------------------------ GPU verdicts


def test_a_gpu_that_computes_is_measured_and_not_judged_by_speed(run_on: Probe) -> None:
    code, report, text = run_on(Machine(), "--profile", "standard", "--expect-gpus", "1")
    checks, gpu = by_id(report), report["gpus"][0]
    assert (code, report["status"]) == (0, "pass")
    assert [row["dtype"] for row in gpu["matmul"]] == ["fp32", "tf32", "fp16", "bf16", "fp8", "int8"]
    assert all(row["precision_verified"] for row in gpu["matmul"])
    assert gpu["matmul"][3]["tflops"]["sustained"] == pytest.approx(500)
    assert gpu["matmul"][3]["shape"] == [8192, 8192, 8192]
    assert (gpu["uuid"], gpu["pci_bus_id"], gpu["compute_capability"]) == ("GPU-0", "0000:1b:00.0", "9.0")
    assert (gpu["sm_count"], gpu["status"], gpu["mig"]) == (132, "pass", None)
    assert checks["matmul.bf16.throughput"]["status"] == "info"
    assert checks["matmul.bf16.reference"]["status"] == "skipped"  # no model has the bare name
    assert "not in the table" in checks["matmul.bf16.reference"]["message"]
    assert checks["cpu.matmul.fp32.correct"]["status"] == "skipped"
    assert report["software"]["driver"] == "580.95.05"
    assert report["software"]["cuda_driver"] == "13.0"
    assert len(text.splitlines()) == 3
    assert "bf16 500 TFLOP/s" in text


@pytest.mark.parametrize(
    ("dtype", "error", "check", "status", "code"),
    [
        ("fp32", ERRORS["tf32"], "matmul.fp32.precision", "fail", 1),  # a silent TF32
        ("tf32", ERRORS["fp32"], "matmul.tf32.precision", "warn", 0),  # fp32 under TF32's name
        ("bf16", arithmetic.ProductError(1e-2, 0.1, True), "matmul.bf16.correct", "fail", 1),
        ("bf16", arithmetic.ProductError(1.66e-3, 0.1, True), "matmul.bf16.correct", "fail", 1),
        ("bf16", arithmetic.ProductError(1.66e-3, 9e-3, False), "matmul.bf16.correct", "fail", 1),
    ],
)
def test_gpu_results(run_on: Probe, dtype: str, error: Any, check: str, status: str, code: int) -> None:
    got, report, _ = run_on(Machine(), **{dtype: error})
    checks = by_id(report)
    assert (got, checks[check]["status"]) == (code, status)
    assert report["gpus"][0]["status"] == status
    assert checks[f"matmul.{dtype}.throughput"]["status"] == "not_run"


@pytest.mark.parametrize(
    ("text", "status", "code"), [("CUDA out of memory. Tried", "unknown", 0), ("CUDA error: unknown error", "fail", 1)]
)
def test_a_product_that_raises(
    run_on: Probe, monkeypatch: pytest.MonkeyPatch, text: str, status: str, code: int
) -> None:
    def trial(*_: Any) -> float:
        raise RuntimeError(text)

    monkeypatch.setattr(measure, "trial_tflops", trial)
    got, report, _ = run_on(Machine())
    checks = by_id(report)
    assert (got, checks["matmul.fp32.correct"]["status"]) == (code, status)
    assert report["status"] != "pass"
    assert checks["matmul.fp32.throughput"]["status"] == "not_run"


@pytest.mark.parametrize(
    ("capability", "profile", "dtypes"),
    [
        ("9.0", "standard", ["fp32", "tf32", "fp16", "bf16", "fp8", "int8"]),
        ("8.0", "standard", ["fp32", "tf32", "fp16", "bf16", "int8"]),
        ("8.6", "quick", ["fp32", "tf32", "bf16"]),
        ("12.0", "quick", ["fp32", "tf32", "bf16"]),
        ("7.5", "standard", ["fp32", "fp16", "int8"]),
        ("7.0", "quick", ["fp32", "fp16"]),
        ("6.1", "quick", ["fp32"]),
    ],
)
def test_gpu_dtypes(capability: str, profile: str, dtypes: list[str]) -> None:
    assert measure.gpu_dtypes(capability, profile) == dtypes


@pytest.mark.parametrize("new", [True, False])
def test_fp32_mode_touches_one_switch_and_restores_it(new: bool) -> None:
    switch = SimpleNamespace(fp32_precision="none") if new else SimpleNamespace(allow_tf32=True)
    torch: Any = SimpleNamespace(backends=SimpleNamespace(cuda=SimpleNamespace(matmul=switch)))
    before = dict(vars(switch))
    with device.fp32_mode(torch, "ieee"):
        assert vars(switch) == ({"fp32_precision": "ieee"} if new else {"allow_tf32": False})
    assert vars(switch) == before


# ------------------------------------------------------------------------------------------------ several GPUs


def several(count: int, **changes: Any) -> Machine:
    return Machine(gpus=("nvidia",) * count, nvml_devices=count, torch_devices=count, **changes)


def outcomes(report: dict[str, Any], name: str) -> list[tuple[str | None, str | None, str]]:
    return [(step["gpu"], step["mode"], step["outcome"]) for step in report["steps"] if step["step"] == name]


def test_gpus_are_measured_together_and_then_alone(run_on: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = {"matrix_gb_s": [[None, 300.0], [310.0, None]], "access": [[None, True], [True, None]], "verified": True}
    ring = {"ranks": 2, "version": "2.27", "busbw_gb_s": {"64": 100.0, "1024": 400.0}, "verified": True}
    monkeypatch.setattr(bandwidth, "peer_copies", lambda devices: peers)
    monkeypatch.setattr(bandwidth, "all_reduce", lambda device, rank, *_: {**ring, "busbw_gb_s": {"64": 100.0 + rank}})
    monkeypatch.setattr(bandwidth, "upload_rate", lambda *_: 41.0)
    code, report, _ = run_on(several(2), "--profile", "standard")
    first, second = report["gpus"]
    assert code == 0
    assert (first["uuid"], second["uuid"]) == ("GPU-0", "GPU-1")
    assert (first["pci_bus_id"], second["pci_bus_id"]) == ("0000:1b:00.0", "0000:1c:00.0")
    assert [row["mode"] for row in second["matmul"]] == ["together"] * 6 + ["alone"]
    assert second["matmul"][-1]["dtype"] == "bf16"
    assert second["bandwidth"]["all_gpus_h2d_gb_s"] == 41.0
    assert report["p2p"] == peers
    assert report["nccl"]["busbw_gb_s"] == {"64": 100.0}  # the slowest rank
    assert outcomes(report, "p2p") == [(None, None, "done")]
    assert [step[2] for step in outcomes(report, "training.compile")] == ["skipped", "done"] or [
        step[2] for step in outcomes(report, "training.compile")
    ] == ["done", "skipped"]


@pytest.mark.parametrize(("option", "modes"), [("--together-only", {"together"}), ("--alone-only", {"alone"})])
def test_one_pass_alone_can_be_wished(run_on: Probe, option: str, modes: set[str]) -> None:
    _, report, _ = run_on(several(2), "--profile=standard", option, "--checks=-p2p,-nccl,-bandwidth.all")
    assert {row["mode"] for gpu in report["gpus"] for row in gpu["matmul"]} == modes
    assert outcomes(report, "p2p") == [("GPU-0", None, "skipped"), ("GPU-1", None, "skipped")]


def test_one_gpu_that_does_not_compute_does_not_hide_the_others(run_on: Probe) -> None:
    code, report, _ = run_on(several(3, kernel_bad=(1,), kernel_error="CUDA error: unspecified launch failure"))
    checks = [check for check in report["checks"] if check["status"] == "fail"]
    assert code == 1
    assert [bool(gpu["matmul"]) for gpu in report["gpus"]] == [True, False, True]
    assert [gpu["status"] for gpu in report["gpus"]] == ["pass", "fail", "pass"]
    assert {check["id"] for check in checks} >= {"software.kernel", "steps.complete"}
    assert "GPU 1 does not compute" in by_id(report)["software.kernel"]["message"]


def test_a_worker_that_sees_another_gpu_is_found_out(run_on: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML's index is not CUDA's number: what a worker sees is compared with what it should see."""
    monkeypatch.setattr(
        conduct, "visible_devices", lambda gpus: dict.fromkeys((reports.gpu_key(g) for g in gpus), "GPU-0")
    )
    code, report, _ = run_on(several(2))
    assert code == 1
    assert "0000:1b:00.0 in the place of the one at 0000:1c:00.0" in by_id(report)["software.kernel"]["message"]
    assert not report["gpus"][1]["matmul"]


@pytest.mark.parametrize(
    ("chosen", "keys"),
    [("all", ["GPU-0", "GPU-1", "GPU-2"]), ("1", ["GPU-1"]), ("GPU-2,0000:1b:00.0", ["GPU-0", "GPU-2"])],
)
def test_gpus_can_be_chosen(run_on: Probe, chosen: str, keys: list[str]) -> None:
    code, report, _ = run_on(several(3), "--gpus", chosen, "--dtypes", "bf16")
    assert code == 0
    assert [gpu["uuid"] for gpu in report["gpus"]] == keys
    assert {row["dtype"] for gpu in report["gpus"] for row in gpu["matmul"]} == {"bf16"}


def test_a_gpu_that_is_not_there_cannot_be_chosen(run_on: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_on(Machine(), "--gpus", "5")
    assert stopped.value.code == 2
    assert "--gpus 5: no such GPU here; there are 0 (GPU-0)" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["torch_cuda", "arches"])
def test_nvml_is_read_also_where_torch_cannot_be_used(run_on: Probe, missing: str) -> None:
    machine = Machine(torch_cuda=None) if missing == "torch_cuda" else Machine(arches=["sm_75"])
    code, report, _ = run_on(machine)
    assert code == 1
    assert [step["step"] for step in report["steps"] if step["gpu"]] == ["look", "after"]
    assert report["gpus"][0]["settings"] is not None


# ------------------------------------------------------------------------------------------------ arithmetic


def test_measure_waits_until_the_batches_agree() -> None:
    slow_start = [0.2] * 4 + [0.5] * 10 + [1.0]
    rates = measure.measure(
        FakeWork(1024, 1e12, series=slow_start), measure.Timing(0.025, 1.0, 3.0, 1.5), 2.0 * 1024**3
    )
    assert rates.sustained == pytest.approx(1e12)
    assert rates.median == pytest.approx(1e12)
    assert rates.stable


def test_measure_tells_burst_from_sustained() -> None:
    """A small card that falls under its power limit: the last third counts, the best half second is kept beside it."""
    falling = [1.0] * 120 + [0.6]
    rates = measure.measure(FakeWork(2048, 4e13, series=falling), measure.Timing(0.03, 1.0, 8.0, 4.0), 2.0 * 2048**3)
    assert rates.burst == pytest.approx(4e13)
    assert rates.sustained == pytest.approx(2.4e13)


def test_measure_of_a_noisy_work_ends() -> None:
    noisy = [1.0, 0.9, 1.1, 0.8] * 500
    assert not measure.measure(
        FakeWork(512, 1e12, series=noisy), measure.Timing(0.05, 0.2, 1.0, 0.6), 2.0 * 512**3
    ).stable


@pytest.mark.parametrize(
    ("tflops", "free_gib", "size"),
    [(30, 24, 4096), (700, 80, 8192), (700, 1, 4096), (1700, 180, 16384), (1700, 8, 8192)],
)
def test_gpu_size(tflops: float, free_gib: int, size: int) -> None:
    assert measure.gpu_size(tflops, free_gib * 1024**3) == size


def check(status: Any, check_id: str = "cpu.matmul.fp32.correct") -> reports.Check:
    return reports.Check(check_id, status, "x")


@pytest.mark.parametrize(
    ("statuses", "strict", "verdict"),
    [
        (["pass"], False, ("pass", 0)),
        (["skipped"], False, ("skipped", 0)),
        (["not_run"], False, ("skipped", 0)),
        (["pass", "warn"], False, ("warn", 0)),
        (["pass", "warn"], True, ("fail", 1)),
        (["pass", "unknown"], False, ("pass", 0)),
        (["pass", "unknown"], True, ("fail", 1)),
        (["pass", "error"], False, ("error", 2)),
        (["error", "fail"], False, ("fail", 1)),
        (["pass", "pending_reboot", "warn"], False, ("pending_reboot", 0)),
    ],
)
def test_judge(statuses: list[str], strict: bool, verdict: tuple[str, int]) -> None:
    assert judge.overall([check(status) for status in statuses], strict) == verdict


def test_facts_alone_are_no_pass() -> None:
    assert judge.overall([check("pass", "software.torch"), check("pass", "gpu.count")]) == ("skipped", 0)


# ------------------------------------------------------------------------------------------------ command line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--version"], f"torch_probe {common.VERSION}"),
        (["--help"], "--require-gpu"),
        (["--list-checks"], "software.driver"),
        (["--explain", "software.nvml"], "18 library and kernel module differ"),
        (["--schema"], '"$schema"'),
    ],
)
def test_what_needs_no_torch(options: list[str], words: str) -> None:
    """-S -I: not even site-packages; the file must stand on the standard library alone."""
    done = subprocess.run(
        [sys.executable, "-S", "-I", str(PROBE), *options], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert words in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--profile", "slow"], "invalid choice"),
        (["--expect-gpus", "-1"], "invalid count (0 or more) value: '-1'"),
        (["--timeout", "0"], "time in seconds"),
        (["--json", "/nowhere/report.json"], "the directory /nowhere does not exist"),
        (["--json", "/tmp"], "is a directory"),
        (["--explain", "gpu.colour"], "no such check"),
    ],
)
def test_bad_usage_is_2_and_one_sentence(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(options)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_the_header_names_what_the_file_needs() -> None:
    header = PROBE.read_text(encoding="utf-8").split("# ///")[1]
    assert 'requires-python = ">=3.9"' in header
    for package in ("torch", "numpy", "nvidia-ml-py"):
        assert f'"{package}"' in header


def test_every_check_is_explained() -> None:
    assert all(text.endswith(".") for text in catalogue.CATALOGUE.values())


def test_the_schema_names_every_field_of_a_report(run_on: Probe) -> None:
    """Additions must reach the schema: everything that a report holds is described there."""

    def closed(node: Any) -> Any:
        if isinstance(node, dict):
            shut = {"additionalProperties": False} if "properties" in node else {}
            return {**{key: closed(value) for key, value in node.items()}, **shut}
        return [closed(item) for item in node] if isinstance(node, list) else node

    schema = closed(reports.schema(list(catalogue.CATALOGUE)))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(run_on(Machine())[1], schema, cls=jsonschema.Draft202012Validator)


def test_json_on_stdout_leaves_the_text_to_stderr(run_on: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    run_on(without_gpu())
    roots = ["--sysfs-root=/nowhere/sys", "--proc-root=/nowhere/proc", "--dev-root=/nowhere/dev"]
    cli.main([*roots, "--json", "-"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["tool"]["name"] == "torch_probe"
    assert "PASS" in captured.err
    cli.main([*roots, "--format", "json"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema_version"] == "1.0"
    assert captured.err == ""
    cli.main([*roots, "--format", "none"])
    assert capsys.readouterr().out == ""


def test_a_report_replaces_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.json"
    target.write_text("old", encoding="utf-8")

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            output.write_atomically(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert target.read_text(encoding="utf-8") == "old"
    output.write_atomically(target, "new")
    assert target.read_text(encoding="utf-8") == "new"
    assert target.stat().st_mode & 0o777 == 0o644


def test_an_internal_error_is_2_with_a_whole_report(run_on: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(host: facts.Host) -> None:
        raise ValueError("surprise")

    monkeypatch.setattr(running, "merge_gpus", broken)
    code, report, _ = run_on(Machine())
    assert (code, report["status"]) == (2, "error")
    assert "ValueError: surprise" in by_id(report)["probe.complete"]["message"]
    assert set(by_id(report)) == set(catalogue.CATALOGUE)


def test_a_run_that_breaks_off_between_two_products_keeps_the_first(
    run_on: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_of = measure.gpu_row

    def broken(product: Any, mode: Any) -> Any:
        if product.dtype == "bf16":
            raise ValueError("surprise")
        return row_of(product, mode)

    monkeypatch.setattr(measure, "gpu_row", broken)
    code, report, _ = run_on(Machine())
    rows = {check["id"]: (check["gpu"], check["status"]) for check in report["checks"]}
    assert code == 2
    assert rows["matmul.fp32.correct"] == ("GPU-0", "pass")
    assert rows["matmul.bf16.correct"] == ("GPU-0", "unknown")  # the probe's own mistake is no fault of the GPU
    assert "ValueError: surprise" in by_id(report)["probe.complete"]["message"]
    assert len(report["checks"]) == len(catalogue.CATALOGUE)


# A torch whose import never returns, as one on a hung file system or device.
HANGING_TORCH = "import time\nopen({flag!r}, 'w').close()\ntime.sleep(60)\n"


@pytest.mark.parametrize(
    ("stop", "options", "code", "words"),
    [
        (signal.SIGINT, [], 130, "stopped by SIGINT while importing torch"),
        (signal.SIGTERM, [], 143, "stopped by SIGTERM while importing torch"),
        (None, ["--timeout", "1"], 2, "not done within 1 s while importing torch"),
    ],
)
def test_a_probe_that_is_stopped_writes_what_it_knows(
    tmp_path: Path, stop: signal.Signals | None, options: list[str], code: int, words: str
) -> None:
    flag, target = tmp_path / "flag", tmp_path / "report.json"
    write(tmp_path / "fake/torch.py", HANGING_TORCH.format(flag=str(flag)))
    roots = build_tree(tmp_path / "host", without_gpu())
    trees = [f"--sysfs-root={roots.sysfs}", f"--proc-root={roots.proc}", f"--dev-root={roots.dev}"]
    child = subprocess.Popen(
        [sys.executable, str(PROBE), *trees, f"--json={target}", "--format=none", *options],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "fake")},
    )
    try:
        until = time.monotonic() + 20
        while not flag.exists() and time.monotonic() < until:
            time.sleep(0.02)
        if stop:
            child.send_signal(stop)
        assert child.wait(timeout=20) == code
    finally:
        child.kill()
    report = json.loads(target.read_text(encoding="utf-8"))
    jsonschema.validate(report, reports.schema(list(catalogue.CATALOGUE)), cls=jsonschema.Draft202012Validator)
    assert words in by_id(report)["probe.complete"]["message"]
    assert report["exit_code"] == code
    assert by_id(report)["cpu.matmul.fp32.correct"]["status"] == "not_run"
    assert set(by_id(report)) == set(catalogue.CATALOGUE)


def test_a_hung_gpu_is_a_failure() -> None:
    """The watch blames the GPU only where nothing but a GPU could hang."""
    run = running.Run(running.Options(timeout=0.1, outputs=output.Outputs(format="none")))
    run.progress("GPU 0: bf16 matrix product", on_gpu=True)
    ended: list[int] = []

    def end(code: int) -> None:
        ended.append(code)
        raise SystemExit

    watch = watching.Watch(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "_exit", end)
        with pytest.raises(SystemExit):
            watch._stop(None)
    assert ended == [1]
    assert run.look[-1].status == "fail"
    assert "no answer within 0.1 s while GPU 0" in run.look[-1].message
