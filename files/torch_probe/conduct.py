"""Carries out a plan: gives every GPU's worker its commands, and puts the answers where the report has them.

What did not come back, was left out or could not be done is a row of `steps`. Nothing is silently absent.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Protocol

from torch_probe import kernel_log, plan
from torch_probe.facts import Roots, link_errors, slot_width
from torch_probe.plan import Planned, Planner, Wishes
from torch_probe.report import (
    Bandwidth,
    Gpu,
    Integrity,
    Mode,
    Nccl,
    Outcome,
    P2p,
    Pcie,
    Step,
    Training,
    Xid,
    blank,
    gpu_key,
)
from torch_probe.workers import Answer, Command


class Workers(Protocol):
    """What is needed of `workers.Pool`. Tests put a stand-in here."""

    pids: set[int]

    def start(self, key: str, visible: str | None) -> None:
        """Start one."""

    def run(self, commands: Mapping[str, Command], deadline: float) -> dict[str, Answer]:
        """Give each its command."""

    def is_gone(self, key: str) -> bool:
        """Whether it has ended."""

    def end(self, key: str, why: str) -> None:
        """End one."""

    def close(self) -> None:
        """End all."""


class Conductor:
    """The measuring of all GPUs."""

    def __init__(
        self,
        gpus: Sequence[Gpu],
        workers: Workers,
        wishes: Wishes,
        roots: Roots,
        tell: Callable[[str], None],
        serials: bool = False,
        device: str = "cuda",
    ) -> None:
        self.gpus = {gpu_key(gpu): gpu for gpu in gpus}
        self.workers, self.wishes, self.roots, self.tell = workers, wishes, roots, tell
        self.serials, self.device = serials, device
        self.steps: list[Step] = []
        self.p2p: P2p | None = None
        self.nccl: Nccl | None = None
        self.log: list[kernel_log.LogLine] | None = None
        self.log_asked = False
        self.log_start = kernel_log.since_boot()
        self.links: dict[str, dict[str, int | None]] = {}
        self.nvml_xids: dict[str, list[Xid]] = {}
        self.counters: dict[str, Mapping[str, Any]] = {}
        self.stopping = threading.Event()

    # ---------------------------------------------------------------------------------------------- the frame

    def begin(self) -> None:
        """A worker for each GPU, and a look at it by NVML before anything is done with it."""
        visible = visible_devices(list(self.gpus.values()))
        for key, gpu in self.gpus.items():
            self.workers.start(key, visible[key])
            self.links[key] = link_errors(self.roots, gpu["pci_bus_id"])
        self._each(
            "look",
            {
                key: {
                    "do": "look",
                    "uuid": gpu["uuid"],
                    "bus_id": gpu["pci_bus_id"],
                    "sysfs": str(self.roots.sysfs),
                    "serials": self.serials,
                }
                for key, gpu in self.gpus.items()
            },
            plan.LOOK_DEADLINE,
        )

    def start(self) -> dict[str, str]:
        """torch in every worker and a small kernel on every GPU: which GPUs do not compute, and in which words."""
        # Eight workers that each take every core for their float64 truth would be slower than one.
        # The CPU that stands in for a GPU has one: of two, one waits for the other whenever somebody else has a core,
        # and what is measured swings fortyfold (seen under load).
        threads = 1 if self.device == "cpu" else max(1, (os.cpu_count() or 1) // len(self.gpus))
        answers = self._each(
            "start",
            {
                key: {"do": "start", "threads": threads, "bus_id": gpu["pci_bus_id"], "device": self.device}
                for key, gpu in self.gpus.items()
            },
            plan.START_DEADLINE,
        )
        bad = {key: answer.message or answer.outcome for key, answer in answers.items() if answer.outcome != "done"}
        for key in bad:
            self.workers.end(key, "a small kernel did not run on it")
        if len(bad) == len(self.gpus):  # one cause for all of them, which the chain tells once
            for step in self.steps:
                if step["step"] == "start":
                    step.update({"outcome": "not_run", "message": "software.kernel comes first"})
        return bad

    def measure(self, keys: Sequence[str]) -> None:
        """Every step of the plan on these GPUs."""
        capabilities = {key: self.gpus[key]["compute_capability"] or "0.0" for key in keys}
        begin = time.monotonic()
        for step in Planner(self.wishes, capabilities).steps() if keys else ():
            spent = time.monotonic() - begin
            if step.optional and spent + step.cost > plan.BUDGET[self.wishes.profile]:
                why = f"no time left in profile {self.wishes.profile} (add it by --checks +{step.name})"
                for key in keys:
                    self._note(step.name, key, "not_run", why, step.mode)
                continue
            self._carry_out(step, keys)

    def finish(self) -> None:
        """The counters at the end, the kernel's log, and what only shows beside the other GPUs."""
        visible = visible_devices(list(self.gpus.values()))
        commands = {}
        for key, gpu in self.gpus.items():
            if self.workers.is_gone(key):  # its counters matter most; this reads them without torch
                self.workers.start(key, visible[key])
            names = {"uuid": gpu["uuid"], "bus_id": gpu["pci_bus_id"], "before": self.counters.get(key, {})}
            commands[key] = {"do": "after", **names}
        self._each("after", commands, plan.LOOK_DEADLINE)
        self.workers.close()
        self.log, self.log_asked = kernel_log.read_log(self.roots.dev / "kmsg"), True
        boot = time.time() - kernel_log.since_boot()
        found = kernel_log.find_xids(self.log or [], self.log_start, boot, frozenset({os.getpid(), *self.workers.pids}))
        for key, gpu in self.gpus.items():
            here = found.get(kernel_log.place(gpu["pci_bus_id"]), []) if gpu["pci_bus_id"] else []
            gpu["xids"] = kernel_log.merge(here, self.nvml_xids.get(key, []))
            self._close_link(key, gpu)
        expect_links(list(self.gpus.values()))

    # ---------------------------------------------------------------------------------------------- one step

    def _carry_out(self, step: Planned, keys: Sequence[str]) -> None:
        if not step.commands:  # over all GPUs at once
            self._over_all(step, keys)
            return
        wanted = {key: dict(command) for key, command in step.commands.items() if isinstance(command, Mapping)}
        for key, command in step.commands.items():
            if not isinstance(command, Mapping):
                self._note(step.name, key, "skipped", command, step.mode)
        if not wanted:
            return
        with tempfile.TemporaryDirectory(prefix="torch_probe.") as cache:
            for command in wanted.values():
                command["cache"] = cache
            if step.one_by_one:
                for key, command in wanted.items():
                    self._each(step.name, {key: command}, step.deadline, step.mode)
            else:
                self._each(step.name, wanted, step.deadline, step.mode)

    def _each(
        self, name: str, commands: Mapping[str, Command], deadline: float, mode: Mode | None = None
    ) -> dict[str, Answer]:
        """Run a step, take its data in, and note what became of it."""
        who = f"GPU {self.gpus[next(iter(commands))]['index']}" if len(commands) == 1 else f"{len(commands)} GPUs"
        self.tell(f"{who}: {name}{f' ({mode})' if mode else ''}")
        answers = self.workers.run({key: {"step": name, **command} for key, command in commands.items()}, deadline)
        if self.stopping.is_set():
            # The report of a run that was stopped is being written by another thread: its data stand still.
            threading.Event().wait()
        for key, answer in answers.items():
            if answer.outcome == "done":
                self._take(self.gpus[key], answer.data)
            self._note(name, key, answer.outcome, answer.message, mode, answer.seconds)
        return answers

    def _note(
        self,
        step: str,
        key: str | None,
        outcome: Outcome,
        message: str | None,
        mode: Mode | None = None,
        seconds: float | None = None,
    ) -> None:
        if key is not None and message and outcome in ("failed", "hang", "unknown"):
            message = f"GPU {self.gpus[key]['index']}: {step}: {message}"
        self.steps.append(
            {"gpu": key, "step": step, "mode": mode, "outcome": outcome, "message": message, "seconds": seconds}
        )

    # ---------------------------------------------------------------------------------------------- its data

    def _take(self, gpu: Gpu, data: Mapping[str, Any]) -> None:
        """An answer's data, each part to its place."""
        for name in ("power", "settings", "others", "vbios", "serial", "numa_node", "memory_health", "nvlink"):
            if name in data:
                gpu[name] = data[name]
        for name, value in (data.get("facts") or {}).items():
            # Its UUID and address are its name in this run; they do not change on the way.
            if name in gpu and gpu[name] is None and name not in ("uuid", "pci_bus_id"):  # type: ignore[literal-required]
                gpu[name] = value  # type: ignore[literal-required]
        if data.get("matmul"):
            gpu["matmul"].append(data["matmul"])
        gpu["matmul"] += data.get("rows") or []
        self._take_integrity(gpu, data)
        self._take_links(gpu, data)
        self._take_training(gpu, data)
        if data.get("counters"):
            self.counters[gpu_key(gpu)] = data["counters"]
        if data.get("xids"):
            self.nvml_xids[gpu_key(gpu)] = data["xids"]

    def _take_integrity(self, gpu: Gpu, data: Mapping[str, Any]) -> None:
        row: Integrity = gpu["integrity"] or blank(Integrity)
        if data.get("integrity"):
            # What a soak or a memory test has added already stays.
            known = {key: value for key, value in data["integrity"].items() if value is not None}
            row.update(known)  # type: ignore[typeddict-item]
        for name in ("memory_test_bytes", "memory_test_errors"):
            if data.get(name) is not None:
                row[name] = data[name]
        for name in ("repeat_digests", "repeat_mismatches"):
            if data.get(name) is not None:
                row[name] = (row[name] or 0) + data[name]  # type: ignore[literal-required]
        if any(value is not None for value in row.values()):
            gpu["integrity"] = row
        if data.get("after_10s_c") is not None and gpu["thermal"]:
            gpu["thermal"]["after_10s_c"] = data["after_10s_c"]
        new, old = data.get("thermal"), gpu["thermal"]
        if new and (old is None or (new["rise_c_per_w"] or 0) > (old["rise_c_per_w"] or 0)):
            gpu["thermal"] = new

    def _take_links(self, gpu: Gpu, data: Mapping[str, Any]) -> None:
        if data.get("bandwidth"):
            row: Bandwidth = gpu["bandwidth"] or blank(Bandwidth)
            verified = row["copies_verified"]
            row.update(data["bandwidth"])
            # One path that was wrong stays wrong.
            row["copies_verified"] = False if verified is False else row["copies_verified"]
            gpu["bandwidth"] = row
        link = {**(data.get("pcie") or {})}
        link.update({name: data[name] for name in ("gen_under_load", "replays_delta") if data.get(name) is not None})
        if link:
            pcie: Pcie = gpu["pcie"] or blank(Pcie)
            pcie.update(link)  # type: ignore[typeddict-item]
            gpu["pcie"] = pcie

    def _take_training(self, gpu: Gpu, data: Mapping[str, Any]) -> None:
        for name in ("autocast", "compile"):
            if data.get(name):
                row: Training = gpu["training"] or blank(Training)
                row[name] = data[name]
                gpu["training"] = row

    def _close_link(self, key: str, gpu: Gpu) -> None:
        """The slot's lanes and the growth of the link's error counters, from sysfs."""
        before, after = self.links[key], link_errors(self.roots, gpu["pci_bus_id"])
        found: dict[str, int | None] = {"width_slot_max": slot_width(self.roots, gpu["pci_bus_id"])}
        for kind in ("fatal", "nonfatal", "correctable"):
            first, last = before[kind], after[kind]
            found[f"aer_{kind}_delta"] = last - first if first is not None and last is not None else None
        if any(value is not None for value in found.values()):
            pcie: Pcie = gpu["pcie"] or blank(Pcie)
            pcie.update(found)  # type: ignore[typeddict-item]
            gpu["pcie"] = pcie

    # ---------------------------------------------------------------------------------------------- over all GPUs

    def _over_all(self, step: Planned, keys: Sequence[str]) -> None:
        if step.name == "p2p":
            self._peers(step, keys)
        else:
            self._all_reduce(step, keys)

    def _peers(self, step: Planned, keys: Sequence[str]) -> None:
        """In a process of its own that sees all GPUs, because a copy needs both of its ends."""
        self.tell(f"{len(keys)} GPUs: {step.name}")
        name = "all GPUs"
        self.workers.start(name, os.environ.get("CUDA_VISIBLE_DEVICES"))
        bus_ids = [self.gpus[key]["pci_bus_id"] for key in keys]
        answer = self.workers.run({name: {"do": "peers", "step": step.name, "bus_ids": bus_ids}}, step.deadline)[name]
        self.workers.end(name, "its work is done")
        if answer.outcome == "done":
            self.p2p = spread(answer.data["p2p"], [list(self.gpus).index(key) for key in keys], len(self.gpus))
        self._note(step.name, None, answer.outcome, answer.message, step.mode, answer.seconds)

    def _all_reduce(self, step: Planned, keys: Sequence[str]) -> None:
        self.tell(f"{len(keys)} GPUs: {step.name}")
        with tempfile.TemporaryDirectory(prefix="torch_probe.") as directory:
            meeting = str(Path(directory) / "meeting")
            commands = {
                key: {
                    "do": "all_reduce",
                    "step": step.name,
                    "rank": rank,
                    "world": len(keys),
                    "meeting": meeting,
                    "sizes_mib": [64, 1024],
                }
                for rank, key in enumerate(keys)
            }
            answers = self.workers.run(commands, step.deadline)
        good = [answer.data["nccl"] for answer in answers.values() if answer.outcome == "done"]
        if len(good) == len(keys):
            sizes = good[0]["busbw_gb_s"]
            # The slowest rank is what a training sees.
            slowest = {size: min(rank["busbw_gb_s"][size] for rank in good) for size in sizes}
            verified = all(rank["verified"] for rank in good)
            first = good[0]
            self.nccl = {
                "ranks": first["ranks"],
                "version": first["version"],
                "busbw_gb_s": slowest,
                "verified": verified,
            }
            self._note(step.name, None, "done", None, step.mode, max(answer.seconds for answer in answers.values()))
            return
        bad = next((answer for answer in answers.values() if answer.outcome != "done"), None)
        outcome: Outcome = bad.outcome if bad else "not_run"
        self._note(step.name, None, outcome, bad.message if bad else None, step.mode)


def spread(found: P2p, places: Sequence[int], count: int) -> P2p:
    """A matrix of some GPUs as one of all of them, in the order of the report."""
    whole: P2p = {
        "matrix_gb_s": [[None] * count for _ in range(count)],
        "access": [[None] * count for _ in range(count)],
        "verified": found["verified"],
    }
    for i, row in enumerate(places):
        for j, column in enumerate(places):
            whole["matrix_gb_s"][row][column] = found["matrix_gb_s"][i][j]
            whole["access"][row][column] = found["access"][i][j]
    return whole


def visible_devices(gpus: Sequence[Gpu]) -> dict[str, str | None]:
    """What each worker's CUDA_VISIBLE_DEVICES is: the UUID, else the GPU's place in what this process sees."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    parts = [part.strip() for part in chosen.split(",")] if chosen else []
    visible: dict[str, str | None] = {}
    for gpu in gpus:
        index = gpu["index"]
        # A MIG slice is named as the user named it: its UUID and its GPU's are not told apart everywhere.
        if gpu["uuid"] and not gpu["mig"]:
            visible[gpu_key(gpu)] = gpu["uuid"]
        else:
            visible[gpu_key(gpu)] = parts[index] if index < len(parts) else str(index)
    return visible


def expect_links(gpus: Sequence[Gpu]) -> None:
    """NVLinks that should be up: all of them on an NVSwitch fabric, else as many as an equal GPU here has."""
    for gpu in gpus:
        mine = gpu["nvlink"]
        if mine is None:
            continue
        equal = [other["nvlink"] for other in gpus if other["name"] == gpu["name"]]
        most = max((link["links_up"] or 0 for link in equal if link), default=0)
        on_fabric = mine["fabric_state"] not in (None, "not_supported")
        mine["links_expected"] = mine["links_supported"] if on_fabric else most
