"""The measuring with a real torch on the CPU: every step that a GPU gets, in small. Skipped where there is no torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from torch_probe import arithmetic, bandwidth, cli, integrity, measure, training
from torch_probe.device import Device, full_accumulation
from torch_probe.measure import Plant, Timing

torch: Any = pytest.importorskip("torch")
QUICK = Timing(0.01, 0.02, 0.05, 0.05)
SMALL = (256, 256, 256)


@pytest.fixture
def cpu() -> Device:
    full_accumulation(torch)
    return Device(torch, "cpu")


def product(device: Device, dtype: str, plant: Plant | None = None, columns: bool = False) -> measure.Product:
    with measure.fp32_switch(device, dtype, plant):
        work = measure.make_work(device, dtype, SMALL, plant)
        return measure.run_product(work, dtype, SMALL, QUICK, columns=columns)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "fp8", "int8"])
@pytest.mark.parametrize("columns", [False, True])
def test_every_dtype_has_the_error_of_its_arithmetic(cpu: Device, dtype: str, columns: bool) -> None:
    try:
        found = product(cpu, dtype, columns=columns)
    except (RuntimeError, AttributeError) as error:  # older ones have no such product on the CPU
        assert dtype in ("fp8", "int8")
        pytest.skip(str(error)[:100])
    assert (found.right, found.precise) == (True, True), found.why
    assert found.speed is not None


def test_tf32_that_is_none_is_named(cpu: Device) -> None:
    found = product(cpu, "tf32")
    assert (found.right, found.precise, found.speed) == (True, False, None)
    assert "higher precision" in found.why


def rounded(values: Any, bits: int) -> Any:
    """float32 with this many bits of mantissa, as a tensor core of lower precision reads it."""
    step = 1 << (23 - bits)
    words = values.view(torch.int32)
    return ((words + step // 2) & ~(step - 1)).view(torch.float32)


def test_a_silent_tf32_is_told_by_its_error(cpu: Device) -> None:
    """gpu-fryer publishes TF32 as FP32. Emulated: the operands lose their low bits before the product."""
    a, b = cpu.normal(64, 512, torch.float32, 1), cpu.normal(512, 512, torch.float32, 2)
    off = rounded(a, 10) @ rounded(b, 10) - (a.double() @ b.double())
    relative = float(off.norm() / (a.double() @ b.double()).norm())
    error = arithmetic.ProductError(relative, 1e-3, True)
    assert arithmetic.judge_error("tf32", error)[:2] == (True, True)
    right, precise, why = arithmetic.judge_error("fp32", error)
    assert (right, precise) == (True, False)
    assert "that of tf32" in why


def test_inputs_are_random_and_equal_everywhere(cpu: Device) -> None:
    """imbue and SuperBench multiply ones; gpu-fryer's fp8 inputs saturate. A vote needs equal inputs on every GPU."""
    values = cpu.normal(256, 256, torch.float32, 1)
    assert float(values.mean()) == pytest.approx(0, abs=0.02)
    assert float(values.std()) == pytest.approx(2 / math.sqrt(3), abs=0.02)
    assert float(values.abs().max()) <= 4  # far from fp8's 448
    assert len(torch.unique(values)) > 30_000
    cpu.chunk = 1000  # made in other parts, the values are the same
    assert torch.equal(values, cpu.normal(256, 256, torch.float32, 1))
    assert not torch.equal(values, cpu.normal(256, 256, torch.float32, 2))
    # By the definition of splitmix64: no version of torch may change them.
    assert [int(value) & (2**64 - 1) for value in cpu.hashes(0, 3, 1)] == [splitmix(number, 1) for number in range(3)]


def splitmix(number: int, salt: int) -> int:
    mask = (1 << 64) - 1
    z = (number * 0x9E3779B97F4A7C15 + 20261122 * 1000003 + salt) & mask
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
    return z ^ z >> 31


def test_a_digest_sees_one_bit_and_two_that_cancel(cpu: Device) -> None:
    values = torch.arange(1000, dtype=torch.int32)
    first = cpu.digest(values)
    flipped, swapped = values.clone(), values.clone()
    flipped[7] ^= 1 << 20
    swapped[3], swapped[8] = values[8], values[3]
    assert len({first, cpu.digest(flipped), cpu.digest(swapped)}) == 3
    cpu.chunk = 10
    assert cpu.digest(values) == first


def test_planted_faults_are_noticed(cpu: Device) -> None:
    good, error = integrity.check_integrity(cpu, "bf16", SMALL, 0.05, True)
    assert (good["repeat_mismatches"], error.finite) == (0, True)
    assert 0 < (good["max_elementwise_ratio"] or 0) < 4
    flipped, _ = integrity.check_integrity(cpu, "bf16", SMALL, 0.05, True, Plant(flip_bit=True))
    assert flipped["repeat_mismatches"]
    scaled = product(cpu, "bf16", Plant(scale_row=True))
    assert (scaled.right, scaled.speed) == (False, None)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_finite_is_never_right(cpu: Device, poison: float, monkeypatch: pytest.MonkeyPatch) -> None:
    work = measure.TorchWork(cpu, "fp32", SMALL)
    work.pairs[0][0][200, 3] = poison
    assert arithmetic.judge_error("fp32", work.error())[0] is False


def test_an_output_that_was_not_written_is_found(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    work = measure.TorchWork(cpu, "fp32", SMALL)
    monkeypatch.setattr(work, "_run", lambda a, b: None)
    assert arithmetic.judge_error("fp32", work.error())[0] is False


def test_memory_and_copies(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "BLOCK", 1 << 20)
    tested, errors = integrity.check_memory(cpu, most=1 << 22)
    assert (tested, errors) == (1 << 22, 0)
    found = bandwidth.device_bandwidth(cpu, 0.02, 1 << 22)
    assert found["copies_verified"] is True
    looked: list[int] = []
    host = bandwidth.host_bandwidth(cpu, 0.02, set(), {0}, lambda: looked.append(1), 1 << 22)
    assert (host["copies_verified"], len(looked)) == (True, 1)
    assert host["far_numa_h2d_gb_s"]
    peers = bandwidth.peer_copies([cpu, cpu], 1 << 20)
    assert (peers["verified"], peers["matrix_gb_s"][0][0]) == (True, None)


def test_a_copy_that_changes_a_bit_is_found(cpu: Device) -> None:
    copies = bandwidth.HostCopies(cpu, 1 << 20)
    copies.up()
    copies.down()
    assert copies.verified()
    copies.target[100] ^= 1
    assert not copies.verified()


def test_all_reduce_of_one_rank(cpu: Device, tmp_path: Path) -> None:
    found = bandwidth.all_reduce(cpu, 0, 1, str(tmp_path / "meeting"), [1], "gloo")
    assert (found["ranks"], found["verified"]) == (1, True)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_training_step_is_near_its_truth(cpu: Device, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WIDTH", 64), ("ROWS", 32)):
        monkeypatch.setattr(training, name, value)
    try:
        row = training.check_autocast(cpu, dtype, 0.05)
    except RuntimeError as error:  # torch before 2.3 has no fp16 products on the CPU
        pytest.skip(str(error)[:100])
    assert (row["finite"], row["loss_fell"]) == (True, True)
    assert (row["loss_error"] or 0) < 0.02
    assert (row["gradient_error"] or 0) < 0.05


def test_the_whole_way_of_a_gpu(tmp_path: Path) -> None:
    """Parent, worker process, plan, every step of `quick`, judge and report, with the CPU in the GPU's place."""
    target = tmp_path / "report.json"
    cli.main(["--stand-in", f"--json={target}", "--format=none", "--dtypes=fp32,bf16"])
    report = json.loads(target.read_text(encoding="utf-8"))
    done = {step["step"] for step in report["steps"] if step["outcome"] == "done"}
    assert done >= {"look", "start", "matmul.fp32", "matmul.bf16", "integrity", "bandwidth.device", "bandwidth.host"}
    gpu = report["gpus"][0]
    assert [row["precision_verified"] for row in gpu["matmul"]] == [True, True]
    assert gpu["integrity"]["repeat_mismatches"] == 0
    assert gpu["bandwidth"]["copies_verified"] is True
