"""The plan of any host, without one: what is measured, in which order, and that it fits into its time."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from torch_probe import plan
from torch_probe.plan import Planned, Planner, Wishes


def steps(profile: str, capabilities: Mapping[str, str], **wishes: object) -> list[Planned]:
    return Planner(Wishes(profile=profile, **wishes), capabilities).steps()  # type: ignore[arg-type]


def gpus(*capabilities: str) -> dict[str, str]:
    return {f"GPU-{place}": capability for place, capability in enumerate(capabilities)}


def done(found: list[Planned], key: str = "GPU-0") -> list[str]:
    return [step.name for step in found if isinstance(step.commands.get(key), Mapping) or not step.commands]


@pytest.mark.parametrize(
    ("profile", "capability", "names"),
    [
        ("quick", "9.0", ["fp32", "tf32", "bf16"]),
        ("quick", "7.5", ["fp32", "fp16"]),
        ("quick", "6.1", ["fp32"]),
        ("standard", "9.0", ["fp32", "tf32", "fp16", "bf16", "fp8", "int8"]),
        ("standard", "7.0", ["fp32", "fp16"]),  # no emulated bf16: it says nothing of the chip
    ],
)
def test_the_dtypes_that_a_chip_has(profile: str, capability: str, names: list[str]) -> None:
    found = [name.partition(".")[2] for name in done(steps(profile, gpus(capability))) if name.startswith("matmul.")]
    assert found == names


def test_every_step_has_its_own_deadline_and_every_gpu_an_answer() -> None:
    for profile in plan.PROFILES:
        for count in (1, 2, 8):
            for step in steps(profile, gpus(*["9.0"] * count)):
                assert step.deadline > step.cost / max(1, len(step.commands) if step.one_by_one else 1)
                assert step.deadline < 10_000
                if step.commands and step.mode != "alone":
                    assert len(step.commands) == count  # a command, or the reason why not


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_profiles_fit_into_their_time(count: int) -> None:
    """What measuring alone takes at most without waiting for a stable clock; import and float64 come on top."""

    def seconds(profile: str) -> float:
        total = 0.0
        # The optional ones are begun only where time is left.
        for step in (step for step in steps(profile, gpus(*["9.0"] * count)) if not step.optional):
            commands = [command for command in step.commands.values() if isinstance(command, Mapping)]
            timings = [command["timing"] for command in commands if "timing" in command]
            longest = max((timing["warmup_min"] + timing["window"] for timing in timings), default=None)
            if longest is not None:
                total += longest * (len(commands) if step.one_by_one else 1)
            elif commands or not step.commands:
                total += step.cost
        return total

    assert seconds("quick") <= 9.5
    assert seconds("standard") <= 55


def test_one_gpu_is_alone_and_several_are_together_first() -> None:
    assert {step.mode for step in steps("standard", gpus("9.0")) if step.name.startswith("matmul.")} == {"alone"}
    two = [step for step in steps("standard", gpus("9.0", "9.0")) if step.name == "matmul.bf16"]
    assert [(step.mode, step.one_by_one) for step in two] == [("together", False), ("alone", True)]
    assert "p2p" not in done(steps("standard", gpus("9.0")))
    assert {"p2p", "nccl", "bandwidth.all"} <= set(done(steps("standard", gpus("9.0", "9.0"))))


def test_a_soak_lasts_as_long_as_wished() -> None:
    soak = steps("soak", gpus("9.0"), duration=900.0)[-1]
    command = soak.commands["GPU-0"]
    assert isinstance(command, Mapping)
    assert (soak.name, command["seconds"], command["dtypes"][0]) == ("soak", 900.0, "fp32")
    assert soak.deadline > 900
    assert plan.default_timeout("soak", 900.0) > soak.deadline


def test_mixed_gpus_have_their_own_dtypes() -> None:
    found = {step.name: step.commands for step in steps("quick", gpus("9.0", "7.5"))}
    assert isinstance(found["matmul.bf16"]["GPU-0"], Mapping)
    assert found["matmul.bf16"]["GPU-1"] == "not in the hardware of compute capability 7.5"
    assert isinstance(found["matmul.fp16"]["GPU-1"], Mapping)


def test_steps_can_be_dropped_and_made_due() -> None:
    found = {step.name: step for step in steps("standard", gpus("9.0", "9.0"), drop=frozenset({"bandwidth"}))}
    assert set(found["bandwidth.host"].commands.values()) == {"dropped by --checks"}
    assert found["nccl"].optional
    due = {step.name: step for step in steps("standard", gpus("9.0", "9.0"), add=frozenset({"nccl"}))}
    assert not due["nccl"].optional
    assert plan.unknown_steps(["nccl", "autocast", "matmul", "colour"]) == ["colour"]
