"""What a profile measures, in which order, for how long, and by when each step must have answered.

Pure data: the plan of any host can be printed and tested without one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch_probe.checks import GPU_DTYPES
from torch_probe.measure import Timing, canonical_dtype, hardware_dtypes
from torch_probe.report import Mode

PROFILES = ("quick", "standard", "soak")
SOAK_SECONDS = 300.0

CPU_TIMING = {
    "quick": Timing(0.05, 0.2, 1.0, 0.6),
    "standard": Timing(0.1, 0.5, 3.0, 3.0),
    "soak": Timing(0.1, 0.5, 3.0, 10.0),
}

# Seconds of measuring after which a profile begins no optional step any more.
BUDGET = {"quick": 12.0, "standard": 66.0, "soak": float("inf")}

# What a step may take beside its own measuring: inputs, and the truth in float64 on a slow CPU.
SLACK = 45.0
# The import of torch from a cold disk, and the driver's first start.
START_DEADLINE = 120.0
LOOK_DEADLINE = 20.0


def default_timeout(profile: str, duration: float) -> float:
    """The end of everything, when each step's own deadline has not been it."""
    return {"quick": 180.0, "standard": 600.0}.get(profile, duration + 900.0)


@dataclass(frozen=True)
class Planned:
    """One step: what each GPU is told to do. `commands` has None and a reason for a GPU that is left out."""

    name: str
    commands: Mapping[str, Mapping[str, Any] | str]
    deadline: float
    mode: Mode | None = None
    one_by_one: bool = False
    optional: bool = False
    cost: float = 1.0

    @property
    def text(self) -> str:
        """For a person who waits."""
        alone = ", GPU after GPU" if self.one_by_one else ""
        return f"{self.name}{alone}"


@dataclass(frozen=True)
class Wishes:
    """The command line's part of a plan."""

    profile: str = "quick"
    duration: float = SOAK_SECONDS
    dtypes: tuple[str, ...] = ()  # empty: what the profile and the chip have
    add: frozenset[str] = frozenset()
    drop: frozenset[str] = frozenset()
    alone: bool = True
    together: bool = True
    size: int | None = None  # of products, for tests; None is the canonical one
    plant: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Planner:
    """The plan for these GPUs, by key: compute capability of each."""

    wishes: Wishes
    capabilities: Mapping[str, str]
    base: Mapping[str, Any] = field(default_factory=dict)

    def steps(self) -> list[Planned]:
        """Every step in order. Correctness and the canonical speed come first, what may be left out last."""
        found = [*self._products(), self._integrity(), *self._alone(), *self._bandwidth()]
        if self.wishes.profile != "quick":
            found += self._links() + self._training()
        if self.wishes.profile == "soak":
            found += [self._memory(), self._soak()]
        return [self._wished(step) for step in found]

    # ---------------------------------------------------------------------------------------------- products

    def _timing(self, canonical: bool) -> Timing:
        if self.wishes.profile == "quick":
            return Timing(0.025, 0.8, 3.0, 2.0) if canonical else Timing(0.025, 0.2, 0.5, 0.4)
        return Timing(0.03, 1.0, 8.0, 4.0) if canonical else Timing(0.03, 0.5, 4.0, 1.5)

    def dtypes(self, key: str) -> dict[str, str | None]:
        """Each dtype, with the reason why this GPU is not measured in it."""
        capability, wanted = self.capabilities[key], self.wishes.dtypes
        has, canonical = hardware_dtypes(capability), canonical_dtype(capability)
        found: dict[str, str | None] = {}
        for dtype in GPU_DTYPES:
            if dtype not in has:
                found[dtype] = f"not in the hardware of compute capability {capability}"
            elif wanted:
                found[dtype] = None if dtype in wanted else "not among --dtypes"
            elif self.wishes.profile == "quick" and dtype not in ("fp32", "tf32", canonical):
                found[dtype] = "not in profile quick"
            else:
                found[dtype] = None
        return found

    @property
    def first_mode(self) -> Mode:
        """One GPU is always alone."""
        return "together" if len(self.capabilities) > 1 and self.wishes.together else "alone"

    def _products(self) -> list[Planned]:
        return [self._product(dtype) for dtype in GPU_DTYPES]

    def _product(self, dtype: str) -> Planned:
        commands: dict[str, Mapping[str, Any] | str] = {}
        cost = 0.0
        for key, capability in self.capabilities.items():
            reason = self.dtypes(key)[dtype]
            if reason:
                commands[key] = reason
                continue
            canonical = dtype == canonical_dtype(capability)
            thorough = canonical and self.wishes.profile != "quick"
            command = self._matmul(dtype, self._timing(canonical), self.first_mode)
            # Two measurements of the same thing say what their noise is; with several GPUs the pass alone does it.
            command["twice"] = thorough and len(self.capabilities) == 1
            command["peak"] = 0.2 if thorough else 0.0
            commands[key] = command
            timing = self._timing(canonical)
            cost = max(cost, timing.warmup_max + timing.window)
        one_by_one = self.first_mode == "alone" and len(self.capabilities) > 1
        return Planned(f"matmul.{dtype}", commands, cost + SLACK, self.first_mode, one_by_one, cost=cost)

    def _matmul(self, dtype: str, timing: Timing, mode: Mode) -> dict[str, Any]:
        return {"do": "matmul", "dtype": dtype, "timing": vars(timing), "mode": mode, **self._common()}

    def _common(self) -> dict[str, Any]:
        return {"size": self.wishes.size, "plant": self.wishes.plant}

    def _alone(self) -> list[Planned]:
        """The canonical product again, each GPU by itself. Good alone and bad together is shared power or cooling."""
        count = len(self.capabilities)
        if count < 2 or self.wishes.profile == "quick" or self.first_mode == "alone" or not self.wishes.alone:
            return []
        timing = Timing(0.03, 0.3, 2.0, min(2.0, max(0.8, 12.0 / count)))
        steps = []
        for dtype in ("bf16", "fp16", "fp32"):
            commands: dict[str, Mapping[str, Any] | str] = {
                key: self._matmul(dtype, timing, "alone")
                for key, capability in self.capabilities.items()
                if canonical_dtype(capability) == dtype and self.dtypes(key)[dtype] is None
            }
            if commands:
                cost = len(commands) * (timing.window + 1)
                steps.append(Planned(f"matmul.{dtype}", commands, 10 + SLACK, "alone", one_by_one=True, cost=cost))
        return steps

    def _all(self, name: str, command: Mapping[str, Any], seconds: float, **more: Any) -> Planned:
        """The same command for every GPU."""
        return Planned(name, {key: dict(command) for key in self.capabilities}, seconds + SLACK, **more)

    def _integrity(self) -> Planned:
        thorough = self.wishes.profile != "quick"
        seconds = 1.5 if thorough else 0.3
        commands: dict[str, Mapping[str, Any] | str] = {
            key: {
                "do": "integrity",
                "dtype": canonical_dtype(capability),
                "seconds": seconds,
                "columns": thorough,
                **self._common(),
            }
            for key, capability in self.capabilities.items()
        }
        return Planned("integrity", commands, seconds + SLACK, cost=seconds)

    # ---------------------------------------------------------------------------------------------- memory and links

    def _bandwidth(self) -> list[Planned]:
        thorough = self.wishes.profile != "quick"
        count = len(self.capabilities)
        small = {"size": 1 << 24} if self.wishes.size else {}
        host = {"do": "host_bandwidth", "seconds": 0.9 if thorough else 0.3, "far": thorough, **small}
        return [
            self._all("bandwidth.device", {"do": "device_bandwidth", "seconds": 0.5, **small}, 1.0),
            # Alone: what is shared with the other GPUs shows in `bandwidth.all`.
            self._all("bandwidth.host", host, 2.0, one_by_one=count > 1, cost=(1.2 if thorough else 0.5) * count),
        ]

    def _links(self) -> list[Planned]:
        if len(self.capabilities) < 2:
            reason = "there is one GPU"
            names = ("bandwidth.all", "p2p", "nccl")
            return [Planned(name, dict.fromkeys(self.capabilities, reason), SLACK) for name in names]
        return [
            self._all("bandwidth.all", {"do": "upload", "seconds": 1.0}, 2.0),
            Planned("p2p", {}, 30 + SLACK, cost=8.0),
            Planned("nccl", {}, 30 + SLACK, optional=True, cost=8.0),
        ]

    # ---------------------------------------------------------------------------------------------- training, soak

    def _training(self) -> list[Planned]:
        autocast: dict[str, Mapping[str, Any] | str] = {}
        compiled: dict[str, Mapping[str, Any] | str] = {}
        for key, capability in self.capabilities.items():
            dtype = canonical_dtype(capability)
            half = dtype != "fp32"
            autocast[key] = {"do": "autocast", "dtype": dtype} if half else "no half precision in this hardware"
            first = not any(isinstance(command, Mapping) for command in compiled.values())
            able = tuple(int(part) for part in capability.split(".")) >= (7, 0)
            reason = "tried on the first GPU alone" if not first else "Triton needs compute capability 7.0"
            compiled[key] = {"do": "compile"} if first and able else reason
        return [
            Planned("training.autocast", autocast, 5 + SLACK, optional=True, cost=2.0),
            Planned("training.compile", compiled, 60.0, optional=True, cost=12.0),
        ]

    def _memory(self) -> Planned:
        return self._all("memory_test", {"do": "memory"}, 120.0)

    def _soak(self) -> Planned:
        seconds = self.wishes.duration
        commands: dict[str, Mapping[str, Any] | str] = {}
        for key in self.capabilities:
            dtypes = [dtype for dtype, reason in self.dtypes(key).items() if reason is None]
            command = {"do": "soak", "dtypes": dtypes, "seconds": seconds, "mode": self.first_mode, **self._common()}
            commands[key] = command if dtypes else "no dtype to measure"
        return Planned("soak", commands, seconds + 2 * SLACK, self.first_mode, cost=seconds)

    # ---------------------------------------------------------------------------------------------- wishes

    def _wished(self, step: Planned) -> Planned:
        """--checks may drop a step, and make an optional one due."""
        group = {step.name, step.name.partition(".")[0], step.name.rpartition(".")[2]}
        if group & self.wishes.drop:
            left_out: dict[str, Mapping[str, Any] | str] = dict.fromkeys(self.capabilities, "dropped by --checks")
            return Planned(step.name, left_out, step.deadline, step.mode)
        if group & self.wishes.add:
            return Planned(step.name, step.commands, step.deadline, step.mode, step.one_by_one, False, step.cost)
        return step


def step_names() -> tuple[str, ...]:
    """What --checks may name."""
    products = [f"matmul.{dtype}" for dtype in GPU_DTYPES]
    others = ("integrity", "bandwidth", "bandwidth.device", "bandwidth.host", "bandwidth.all", "p2p", "nccl")
    return (*products, *others, "training", "autocast", "compile", "memory_test", "soak")


def unknown_steps(names: Collection[str]) -> Sequence[str]:
    """Those of `names` that are no step."""
    known = {part for name in step_names() for part in (name, name.rpartition(".")[2])} | {"matmul"}
    return sorted(set(names) - known)
