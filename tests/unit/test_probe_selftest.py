"""The self-test's own verdict on recorded hosts. The scenario `default` runs it with the real torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch_probe import history, judge, selftest, simulate
from torch_probe.run import Options

HOSTS = Path(__file__).parents[1] / "fixtures" / "probe"
HEALTHY: dict[str, Any] = json.loads((HOSTS / "peers_1.json").read_text(encoding="utf-8"))
Plant = Callable[[dict[str, Any]], None]


def flip(gpu: dict[str, Any]) -> None:
    gpu["integrity"]["repeat_mismatches"] = 3


def scale(gpu: dict[str, Any]) -> None:
    gpu["matmul"][2].update(correct=False, why="single elements are wrong", tflops={})


def tf32(gpu: dict[str, Any]) -> None:
    gpu["matmul"][0].update(precision_verified=False, rel_error=2.9e-4, why="that of tf32", tflops={})


def drag(gpu: dict[str, Any]) -> None:
    gpu["matmul"][2]["tflops"]["sustained"] *= 0.87


PLANTS: dict[str, Plant] = {"flip_bit": flip, "scale_row": scale, "force_tf32": tf32, "drag": drag}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, list[str]]]:
    """Run it on a recorded host where only some faults have an effect."""

    def run(works: tuple[str, ...] = tuple(PLANTS), on_gpu: bool = True, host: Mapping[str, Any] = HEALTHY) -> Any:
        def trial(options: Options, plant: Mapping[str, Any], past: history.History) -> selftest.Trial:
            recording = copy.deepcopy(dict(host))
            for name in plant:
                if name in works:
                    PLANTS[name](recording["gpus"][0])
            recorded = simulate.Recording(recording)
            rules = judge.Rules(reference=None, history=past)
            found = judge.verdict(recorded.measured, recorded.look, rules)
            return selftest.Trial({**recorded.measured, **found, "tool": {"profile": "quick"}})

        monkeypatch.setattr(selftest, "_trial", trial)
        monkeypatch.setattr(selftest, "_prepare", lambda options: (options, on_gpu))
        told: list[str] = []
        return selftest.main(Options(), told.append), told

    return run


def test_every_fault_is_noticed_on_a_gpu(planted: Callable[..., tuple[int, list[str]]]) -> None:
    code, told = planted()
    assert code == 0
    assert [line.split()[0] for line in told[1:]] == ["NOTICED"] * 4 + ["PASS"]


@pytest.mark.parametrize("blind", list(PLANTS))
def test_a_fault_that_nothing_notices_is_a_failure(planted: Callable[..., tuple[int, list[str]]], blind: str) -> None:
    code, told = planted(works=tuple(name for name in PLANTS if name != blind))
    assert code == 1
    assert [line.split()[0] for line in told[1:]].count("MISSED") == 1
    assert told[-1] == "FAIL  3 of 4 planted faults noticed"


def test_the_cpu_cannot_play_tf32(planted: Callable[..., tuple[int, list[str]]]) -> None:
    code, told = planted(on_gpu=False)
    assert (code, told[3].split()[0]) == (0, "SKIPPED")


def test_a_fault_that_is_there_already_proves_nothing(planted: Callable[..., tuple[int, list[str]]]) -> None:
    ill = copy.deepcopy(HEALTHY)
    flip(ill["gpus"][0])
    code, told = planted(host=ill)
    assert told[1].startswith("SKIPPED")
    assert "is fail without it" in told[1]
    assert code == 0


def test_nothing_to_measure_with_is_2(planted: Callable[..., tuple[int, list[str]]]) -> None:
    nothing = json.loads((HOSTS / "cpu_wheel.json").read_text(encoding="utf-8"))
    code, told = planted(host=nothing)
    assert code == 2
    assert told[-1].startswith("ERROR    nothing could be measured: torch 2.14.1+cpu is a CPU-only wheel")
