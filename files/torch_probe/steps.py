"""What a worker does: every step of the plan on one GPU. Runs in a process of its own; see `workers`."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from torch_probe import bandwidth, integrity, measure, nvml, training
from torch_probe.device import Device, full_accumulation
from torch_probe.facts import normal_bus_id, torch_device
from torch_probe.faults import run_tiny_kernel
from torch_probe.measure import Plant, Shape, Timing, Work
from torch_probe.report import Matmul
from torch_probe.workers import Command, Handler, Line, MissingError, UnableError, open_line, serve


class Session:
    """What lasts from one step to the next."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.gauge: nvml.Gauge | None = None
        self.xids: nvml.XidWatch | None = None
        self.limit_w: float | None = None
        self.idle_c: float | None = None
        self.torch: Any = None
        self.device: Device | None = None
        self.facts: dict[str, Any] = {}
        self.near: set[int] = set()
        self.far: set[int] = set()
        self.size: int | None = None

    def on(self) -> Device:
        """The device, once `start` has been done."""
        if self.device is None:
            raise UnableError("the GPU was not started")
        return self.device

    def watch(self) -> nvml.Sampler:
        """For the window of a measurement."""
        return nvml.Sampler(self.gauge, self.limit_w)

    # ---------------------------------------------------------------------------------------------- NVML alone

    def look(self, command: Command) -> Mapping[str, Any]:
        """How the GPU is set up, and its counters before anything is done with it. Needs no torch."""
        self.near, self.far = bandwidth.near_and_far(Path(command["sysfs"]), command["bus_id"])
        gauge = self.gauge = nvml.open_gauge(command["uuid"], command["bus_id"])
        if gauge is None:
            return {}
        power = nvml.read_power(gauge)
        self.limit_w, self.idle_c = power["limit_w"], gauge.temperature()
        self.xids = nvml.XidWatch(gauge)
        node = nvml.count(gauge.ask("nvmlDeviceGetNumaNodeId"))
        return {
            "counters": nvml.read_counters(gauge).values,
            "power": power,
            "settings": nvml.read_settings(gauge),
            "others": nvml.read_others(gauge),
            "vbios": nvml.text(gauge.ask("nvmlDeviceGetVbiosVersion")),
            "serial": nvml.text(gauge.ask("nvmlDeviceGetSerial")) if command.get("serials") else None,
            "numa_node": node,
            "idle_c": self.idle_c,
            "pcie": {
                "gen_system_max": nvml.count(gauge.ask("nvmlDeviceGetMaxPcieLinkGeneration")),
                "gen_device_max": nvml.count(gauge.ask("nvmlDeviceGetGpuMaxPcieLinkGeneration")),
                "width": nvml.count(gauge.ask("nvmlDeviceGetCurrPcieLinkWidth")),
                "width_max": nvml.count(gauge.ask("nvmlDeviceGetMaxPcieLinkWidth")),
            },
        }

    def after(self, command: Command) -> Mapping[str, Any]:
        """The counters at the end, and their growth. A new worker may do it, where the first one hung or broke."""
        gauge = self.gauge or nvml.open_gauge(command["uuid"], command["bus_id"])
        if gauge is None:
            return {}
        before, after = nvml.Counters(command["before"]), nvml.read_counters(gauge)
        return {
            "memory_health": nvml.memory_health(before, after),
            "nvlink": nvml.nvlink(before, after),
            "replays_delta": nvml.delta(before["pcie_replays"], after["pcie_replays"]),
            "xids": self.xids.collect() if self.xids else [],
        }

    # ---------------------------------------------------------------------------------------------- torch

    def start(self, command: Command) -> Mapping[str, Any]:
        """Import torch, see that this is the GPU that was meant, and run a small kernel on it."""
        torch = self.torch = importlib.import_module("torch")
        torch.set_num_threads(int(command["threads"]))
        if command.get("device") == "cpu":
            self.device = Device(torch, "cpu")
            return {"facts": {}}
        self.facts = torch_device(torch, 0)
        seen, wanted = self.facts.get("pci_bus_id"), command.get("bus_id")
        if seen and wanted and not self.facts.get("mig") and normal_bus_id(seen) != normal_bus_id(wanted):
            raise RuntimeError(f"torch shows the GPU at {seen} in the place of the one at {wanted}")
        self.device = Device(torch, "cuda:0")
        full_accumulation(torch)
        problem = run_tiny_kernel(torch, 0)
        if problem:
            raise RuntimeError(problem)
        return {"facts": self.facts}

    def _shape(self, wanted: int | None) -> Shape:
        """The canonical shape of this GPU, the same for every dtype. Chosen once, by a trial of the canonical dtype,
        which also raises the clock from idle: trials of each would put some now into one class, now into the other.
        """
        if wanted:
            return (wanted, wanted, wanted)
        if self.size is None:
            device, small = self.on(), (4096, 4096, 4096)
            dtype = measure.canonical_dtype(str(self.facts.get("compute_capability") or "0.0"))
            with measure.fp32_switch(device, dtype):
                tflops = measure.trial_tflops(measure.make_work(device, dtype, small), small)
            device.release()
            self.size = measure.gpu_size(tflops, device.free_bytes())
        return (self.size, self.size, self.size)

    def _row(
        self,
        command: Command,
        dtype: str,
        timing: Timing,
        ready: Callable[[], None],
        then: Callable[[Work], None] = lambda _work: None,
    ) -> Matmul:
        device, plant = self.on(), _plant(command)
        missing = measure.missing_call(self.torch, dtype)
        if missing:
            raise MissingError(missing)
        shape = self._shape(command.get("size"))
        try:
            with measure.fp32_switch(device, dtype, plant):
                work = measure.make_work(device, dtype, shape, plant)
                product = measure.run_product(
                    work,
                    dtype,
                    shape,
                    timing,
                    watch=self.watch,
                    twice=bool(command.get("twice")),
                    columns=bool(command.get("columns")),
                    ready=ready,
                )
                row = measure.gpu_row(product, command["mode"])
                then(work)
                del work
                if command.get("peak") and product.speed:
                    row["peak_shape"] = measure.find_peak(device, dtype, shape[0], float(command["peak"]))
        finally:
            device.release()
        return row

    def matmul(self, command: Command) -> Mapping[str, Any]:
        """One dtype's product."""
        dtype = command["dtype"]
        row = self._row(command, dtype, Timing(**command["timing"]), self.line.ready)
        return {"matmul": row, "thermal": self._thermal(row)}

    def _thermal(self, row: Matmul) -> Mapping[str, Any] | None:
        window = row["window"]
        hot, power = (window["temp_c"]["max"], window["power_w"]) if window else (None, None)
        if hot is None or power is None or self.idle_c is None or power < 50:
            return None
        return {"idle_c": self.idle_c, "after_10s_c": None, "rise_c_per_w": round((hot - self.idle_c) / power, 4)}

    def integrity(self, command: Command) -> Mapping[str, Any]:
        """Float64 truth and bitwise repeats of the canonical product."""
        device, dtype = self.on(), command["dtype"]
        shape = self._shape(command.get("size"))
        try:
            with measure.fp32_switch(device, dtype):
                row, error = integrity.check_integrity(
                    device, dtype, shape, command["seconds"], bool(command.get("columns")), _plant(command)
                )
        finally:
            device.release()
        name = str(self.facts.get("name", "cpu"))
        row["digest_key"] = integrity.digest_key(device, dtype, shape, name, self.facts.get("sm_count"))
        return {"integrity": row, "finite": error.finite}

    def memory(self, command: Command) -> Mapping[str, Any]:
        """Random words and their complement over most of the free memory."""
        device = self.on()
        try:
            tested, errors = integrity.check_memory(device, most=command.get("most"))
        finally:
            device.release()
        return {"memory_test_bytes": tested, "memory_test_errors": errors}

    # ---------------------------------------------------------------------------------------------- bandwidth

    def device_bandwidth(self, command: Command) -> Mapping[str, Any]:
        """The GPU's own memory."""
        device = self.on()
        try:
            found = bandwidth.device_bandwidth(device, command["seconds"], command.get("size", bandwidth.GIB))
        finally:
            device.release()
        return {"bandwidth": {**found, "device_theory_gb_s": bandwidth.device_theory(device)}}

    def host_bandwidth(self, command: Command) -> Mapping[str, Any]:
        """To and from the host, alone; the link's generation is read while data are on the way."""
        device, generations = self.on(), list[int]()

        def look() -> None:
            generation = self.gauge.pcie_generation() if self.gauge else None
            if generation is not None:
                generations.append(generation)

        size = command.get("size", 256 * bandwidth.MIB)
        far = self.far if command.get("far") else set[int]()
        found = bandwidth.host_bandwidth(device, command["seconds"], self.near, far, look, size)
        return {"bandwidth": found, "gen_under_load": max(generations) if generations else None}

    def upload(self, command: Command) -> Mapping[str, Any]:
        """From the host, while the other GPUs do the same."""
        rate = bandwidth.upload_rate(self.on(), command["seconds"], self.near, self.line.ready)
        return {"bandwidth": {"all_gpus_h2d_gb_s": rate}}

    def peers(self, command: Command) -> Mapping[str, Any]:
        """Between GPUs: this worker sees all of them, and finds each by its bus id."""
        torch = importlib.import_module("torch")
        places = {}
        for index in range(torch.cuda.device_count()):
            places[torch_device(torch, index).get("pci_bus_id")] = index
        indices = [places.get(bus_id, place) for place, bus_id in enumerate(command["bus_ids"])]
        return {"p2p": bandwidth.peer_copies([Device(torch, f"cuda:{index}") for index in indices])}

    def all_reduce(self, command: Command) -> Mapping[str, Any]:
        """Over every GPU; this worker is one rank."""
        return {
            "nccl": bandwidth.all_reduce(
                self.on(), command["rank"], command["world"], command["meeting"], command["sizes_mib"]
            )
        }

    # ---------------------------------------------------------------------------------------------- training, soak

    def autocast(self, command: Command) -> Mapping[str, Any]:
        """A small model under autocast against float64."""
        return {"autocast": training.check_autocast(self.on(), command["dtype"])}

    def compile(self, command: Command) -> Mapping[str, Any]:
        """The same model through `torch.compile`."""
        # Before it is imported. Its cache would be the user's; this one is thrown away.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", command["cache"])
        os.environ.setdefault("TRITON_CACHE_DIR", command["cache"])
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes of its own besides
        return {"compile": training.check_compile(self.on())}

    def soak(self, command: Command) -> Mapping[str, Any]:
        """Load without a rest, dtype after dtype; each turn ends with repeats, which must have the first one's bits."""
        end = time.monotonic() + command["seconds"]
        rows: dict[str, Matmul] = {}
        digests: dict[str, str] = {}
        count = different = turns = 0
        after_10s = None
        begin = time.monotonic()

        def repeats_of(work: Work) -> None:
            nonlocal count, different
            digest, repeats, wrong = integrity.repeat(work, 0.3)
            different += wrong + (digests.setdefault(dtype, digest) != digest)
            count += repeats

        while time.monotonic() < end:
            dtype = command["dtypes"][turns % len(command["dtypes"])]
            turns += 1
            timing = Timing(0.03, 0.0, 0.3, min(15.0, max(0.5, end - time.monotonic())))
            # No wait for the other GPUs between turns: they would rest meanwhile.
            rows[dtype] = self._row(command, dtype, timing, lambda: None, repeats_of)
            if after_10s is None and time.monotonic() - begin >= 10 and self.gauge:
                after_10s = self.gauge.temperature()
            speed = rows[dtype]["tflops"]["sustained"]
            left = max(0.0, end - time.monotonic())
            self.line.progress(f"soak: {left:.0f} s left, {dtype} {speed} TFLOP/s, {count} repeats")
        return {
            "rows": list(rows.values()),
            "repeat_digests": count,
            "repeat_mismatches": different,
            "after_10s_c": after_10s,
        }


def _plant(command: Command) -> Plant | None:
    return Plant(**command["plant"]) if command.get("plant") else None


def handlers(line: Line) -> dict[str, Handler]:
    """The steps by name."""
    session = Session(line)
    return {
        "look": session.look,
        "after": session.after,
        "start": session.start,
        "matmul": session.matmul,
        "integrity": session.integrity,
        "memory": session.memory,
        "device_bandwidth": session.device_bandwidth,
        "host_bandwidth": session.host_bandwidth,
        "upload": session.upload,
        "peers": session.peers,
        "all_reduce": session.all_reduce,
        "autocast": session.autocast,
        "compile": session.compile,
        "soak": session.soak,
    }


def main() -> None:
    """The life of a worker."""
    line = open_line()
    serve(handlers(line), line)
