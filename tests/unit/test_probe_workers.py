"""One process a GPU: real processes, with steps that hang, crash, raise and wait for each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch_probe import workers
from torch_probe.workers import Pool

# A worker's module as `steps` is one, with steps that go wrong. It takes no torch.
STEPS = """
import os, signal, sys, time
from torch_probe import workers

def handlers(line):
    def meet(command):
        time.sleep(command.get("prepare", 0))
        line.ready()
        at = time.monotonic()
        time.sleep(command.get("work", 0))
        return {"at": at}
    def hang(command):
        time.sleep(60)
    def crash(command):
        print("Fatal: the device has fallen off", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGSEGV)
    def fail(command):
        raise {"RuntimeError": RuntimeError, "TypeError": TypeError, "Unable": workers.UnableError,
               "Missing": workers.MissingError, "NotImplementedError": NotImplementedError}[command["kind"]](
               command["text"])
    def noise(command):
        print("a library's own words on standard output")
        os.write(1, b"and raw ones\\n")
        line.progress("half of it")
        return {"visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "order": os.environ["CUDA_DEVICE_ORDER"]}
    return {"meet": meet, "hang": hang, "crash": crash, "fail": fail, "noise": noise}

def main():
    line = workers.open_line()
    workers.serve(handlers(line), line)
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """Workers whose steps are those above."""
    (tmp_path / "bad_steps.py").write_text(STEPS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(workers, "BOOT", workers.BOOT.replace("torch_probe.{module}", "{module}"))
    said: list[str] = []
    found = Pool(lambda key, text: said.append(f"{key}: {text}"), module="bad_steps")
    found.said = said  # type: ignore[attr-defined]
    yield found
    found.close()


def test_a_worker_answers_and_sees_its_own_gpu(pool: Pool) -> None:
    pool.start("a", "GPU-a")
    pool.start("b", "GPU-b")
    answers = pool.run({"a": {"do": "noise"}, "b": {"do": "noise"}}, 30)
    assert {key: answer.outcome for key, answer in answers.items()} == {"a": "done", "b": "done"}
    assert answers["a"].data == {"visible": "GPU-a", "order": "PCI_BUS_ID"}
    assert answers["b"].data["visible"] == "GPU-b"
    assert sorted(pool.said) == ["a: half of it", "b: half of it"]  # type: ignore[attr-defined]


def test_one_that_hangs_is_killed_and_the_others_go_on(pool: Pool) -> None:
    for key in "abc":
        pool.start(key, None)
    pool.run({key: {"do": "noise"} for key in "abc"}, 30)  # started
    hung = pool.workers["b"].process
    begin = time.monotonic()
    answers = pool.run({"a": {"do": "meet"}, "b": {"do": "hang"}, "c": {"do": "meet"}}, 2)
    assert time.monotonic() - begin < 6
    assert [answers[key].outcome for key in "abc"] == ["done", "hang", "done"]
    assert "no answer within 2 s from hang" in str(answers["b"].message)
    assert hung.poll() == -signal.SIGKILL
    again = pool.run({key: {"do": "noise"} for key in "abc"}, 30)
    assert [again[key].outcome for key in "abc"] == ["done", "not_run", "done"]
    assert "it hung in hang" in str(again["b"].message)


def test_one_that_dies_tells_how(pool: Pool) -> None:
    pool.start("a", None)
    pool.start("b", None)
    answers = pool.run({"a": {"do": "crash"}, "b": {"do": "meet"}}, 30)
    assert [answers[key].outcome for key in "ab"] == ["failed", "done"]
    assert "signal 11" in str(answers["a"].message)
    assert "the device has fallen off" in str(answers["a"].message)
    assert pool.is_gone("a")
    pool.start("a", None)  # another one reads its counters
    assert pool.run({"a": {"do": "noise"}}, 30)["a"].outcome == "done"


def test_a_step_begins_together(pool: Pool) -> None:
    """The common start comes after the slowest preparation, and once: the next step waits for its own."""
    for key in "abc":
        pool.start(key, None)
    for order in ("abc", "cba", "bca"):
        # The first to finish is heard while the others still work; that must not start them into the next step.
        commands = {key: {"do": "meet", "prepare": 0.3 * n, "work": 0.2 * n} for n, key in enumerate(order)}
        begin = time.monotonic()
        answers = pool.run(commands, 30)
        begun = [answers[key].data["at"] for key in "abc"]
        assert min(begun) - begin >= 0.6
        assert max(begun) - min(begun) < 0.3


@pytest.mark.parametrize(
    ("kind", "text", "outcome", "words", "gone"),
    [
        ("RuntimeError", "CUDA error: an illegal memory access", "failed", "illegal", True),
        ("RuntimeError", "mat1 and mat2 differ", "failed", "differ", False),
        ("RuntimeError", "CUDA out of memory. Tried", "unknown", "out of memory", False),
        ("RuntimeError", "torch._scaled_mm is only supported on CUDA devices with 9.0", "skipped", "no kernel", False),
        ("NotImplementedError", "Could not run 'aten::_scaled_mm' with the 'CUDA' backend", "skipped", "kernel", False),
        ("Missing", "torch 2.0 has no fp8 product", "skipped", "no fp8", False),
        ("Unable", "the GPU was not started", "unknown", "not started", False),
        ("TypeError", "unsupported operand", "unknown", "internal error", False),
    ],
)
def test_what_an_exception_says_of_the_gpu(
    pool: Pool, kind: str, text: str, outcome: str, words: str, gone: bool
) -> None:
    pool.start("a", None)
    answer = pool.run({"a": {"do": "fail", "kind": kind, "text": text}}, 30)["a"]
    assert answer.outcome == outcome
    assert words in str(answer.message)
    assert pool.is_gone("a") is gone


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    """Whatever it is doing: nobody is there any more who would kill it."""
    (tmp_path / "bad_steps.py").write_text(STEPS, encoding="utf-8")
    script = textwrap.dedent(
        """
        import os, sys, threading, time
        from torch_probe import workers
        workers.BOOT = workers.BOOT.replace("torch_probe.{module}", "{module}")
        pool = workers.Pool(module="bad_steps")
        pool.start("a", None)
        pool.run({"a": {"do": "noise"}}, 30)
        print(pool.workers["a"].process.pid, flush=True)
        threading.Thread(target=pool.run, args=({"a": {"do": "hang"}}, 60), daemon=True).start()
        time.sleep(0.5)
        os._exit(9)
        """
    )
    path = os.pathsep.join([str(tmp_path), workers.HOME])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    worker = Path("/proc") / done.stdout.strip()
    until = time.monotonic() + 10
    while worker.exists() and "Z" not in (worker / "stat").read_text(encoding="utf-8").split()[2:3]:
        assert time.monotonic() < until, "the worker outlives its parent"
        time.sleep(0.05)
