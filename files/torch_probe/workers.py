"""One process a GPU, so that a GPU that hangs takes its own process along and nothing else.

The parent gives each worker one command at a time, with a deadline, as a line of JSON, and reads lines of JSON back.
A worker that does not answer in time is killed and reported; the others go on. Commands of one step begin together on
all GPUs: each worker says `ready` after its preparation, and waits for `go`.

A worker is pinned by UUID, and proves by the bus id that it then sees that it has the GPU that it was meant to have.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Callable

from torch_probe.common import first_line
from torch_probe.report import Outcome

# The directory, or the zip application, that holds this package.
HOME = str(Path(__file__).resolve().parents[1])
BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from torch_probe.{module} import main; main()"

Command = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What became of one command on one worker."""

    outcome: Outcome
    data: dict[str, Any]
    message: str | None
    seconds: float


# ------------------------------------------------------------------------------------------------ the parent's side


class Worker:
    """A process, and a thread that reads from it."""

    def __init__(self, key: str, visible: str | None, mailbox: queue.Queue[tuple[str, dict[str, Any]]], module: str):
        environment = dict(os.environ)
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        # Bitwise repeats need a fixed workspace; nothing may ask the network for a newer kernel or model.
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        if visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = visible
        self.key, self.mailbox = key, mailbox
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the worker
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT.format(module=module), HOME, f"worker of torch_probe for {key}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            text=True,
            # A terminal's Ctrl-C is for the parent, which then ends its workers.
            start_new_session=True,
        )
        self.thread = threading.Thread(target=self._read, name=f"worker {key}", daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101  for mypy: it is a pipe
        with contextlib.suppress(OSError, ValueError):
            for line in self.process.stdout:
                with contextlib.suppress(ValueError):  # what a library prints is no message
                    message = json.loads(line)
                    if isinstance(message, dict):
                        self.mailbox.put((self.key, message))
        self.mailbox.put((self.key, {"kind": "end"}))

    def send(self, message: Command) -> None:
        """A line to the worker. One that has died cannot read; its end is told by the mailbox."""
        assert self.process.stdin is not None  # noqa: S101  for mypy: it is a pipe
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def end(self) -> None:
        """Kill it. One that waits in the kernel for its GPU cannot die; it is left behind, not waited for."""
        with contextlib.suppress(OSError):
            self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)

    def last_words(self) -> str:
        """How it ended, and the last line that it wrote on standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        code = self.process.returncode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        with contextlib.suppress(OSError, ValueError):
            size = self.errors.seek(0, os.SEEK_END)
            self.errors.seek(max(0, size - 4000))
            lines = self.errors.read().decode(errors="replace").strip().splitlines()
            return f"its process ended with {how}" + (f": {lines[-1][:300]}" if lines else "")
        return f"its process ended with {how}"


class Pool:
    """The workers of a run."""

    def __init__(self, tell: Callable[[str, str], None] = lambda _key, _text: None, module: str = "steps") -> None:
        self.tell, self.module = tell, module
        self.mailbox: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.workers: dict[str, Worker] = {}
        # Why a worker is gone; what is asked of it afterwards is not run.
        self.gone: dict[str, str] = {}
        # Of all that were started: an Xid that one of them raised is the probe's own.
        self.pids: set[int] = set()

    def start(self, key: str, visible: str | None) -> None:
        """Start a worker that sees these CUDA devices; None leaves the choice as it is."""
        self.workers[key] = Worker(key, visible, self.mailbox, self.module)
        self.gone.pop(key, None)
        self.pids.add(self.workers[key].process.pid)

    def run(self, commands: Mapping[str, Command], deadline: float) -> dict[str, Answer]:
        """Give each worker its command; they begin together. Returns when all have answered or were given up.

        The deadline counts for the preparation, and again from the common start: one that hangs before it is killed,
        and the others begin without it.
        """
        answers: dict[str, Answer] = {}
        for key in commands:
            if key in self.gone or key not in self.workers:
                why = self.gone.get(key, "its process was never started")
                answers[key] = Answer("not_run", {}, why, 0.0)
        waiting = set(commands) - set(answers)
        for key in sorted(waiting):
            self.workers[key].send(commands[key])
        preparing, ready = set(waiting), set[str]()
        begin = time.monotonic()
        until = begin + deadline
        while waiting:
            try:
                key, message = self.mailbox.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                for key in sorted(preparing or waiting):
                    answers[key] = self._hang(key, str(commands[key].get("step") or commands[key]["do"]), deadline)
                    waiting.discard(key)
                preparing.clear()
            else:
                self._receive(key, message, waiting, preparing, ready, answers, begin)
            if ready and not preparing:
                for key in sorted(ready & waiting):
                    self.workers[key].send({"go": True})
                ready.clear()
                until = time.monotonic() + deadline
        return answers

    def _receive(
        self,
        key: str,
        message: Mapping[str, Any],
        waiting: set[str],
        preparing: set[str],
        ready: set[str],
        answers: dict[str, Answer],
        begin: float,
    ) -> None:
        kind = message.get("kind")
        if kind == "progress":
            self.tell(key, str(message.get("text")))
        elif key not in waiting:
            if kind == "end":
                self._bury(key)
        elif kind == "ready":
            preparing.discard(key)
            ready.add(key)
        else:
            preparing.discard(key)
            waiting.discard(key)
            answers[key] = self._answer(key, message, time.monotonic() - begin)

    def _answer(self, key: str, message: Mapping[str, Any], seconds: float) -> Answer:
        if message.get("kind") == "done":
            return Answer("done", dict(message.get("data") or {}), None, round(seconds, 2))
        if message.get("kind") == "failed":
            text = str(message.get("message"))
            if message.get("broken"):
                self.end(key, "an error of its GPU came before")
            return Answer(message.get("outcome", "failed"), {}, text, round(seconds, 2))
        return Answer("failed", {}, self._bury(key), round(seconds, 2))

    def _hang(self, key: str, what: str, deadline: float) -> Answer:
        message = f"no answer within {deadline:g} s from {what}; its process was killed"
        self.end(key, f"it hung in {what}")
        return Answer("hang", {}, message, round(deadline, 2))

    def _bury(self, key: str) -> str:
        words = self.workers[key].last_words() if key in self.workers else "its process is gone"
        self.gone.setdefault(key, words)
        self.workers.pop(key, None)
        return words

    def is_gone(self, key: str) -> bool:
        """Whether a worker has ended."""
        return key not in self.workers

    def end(self, key: str, why: str) -> None:
        """End one worker."""
        self.gone[key] = why
        worker = self.workers.pop(key, None)
        if worker:
            worker.end()

    def close(self) -> None:
        """End all of them: at the end of a run, or before the report of one that is stopped."""
        for worker in list(self.workers.values()):
            worker.end()
        self.workers.clear()


# ------------------------------------------------------------------------------------------------ the worker's side


class Line:
    """The worker's end of the two pipes."""

    def __init__(self, source: IO[str], sink: IO[str]) -> None:
        self.sink = sink
        self.commands: queue.Queue[Command | None] = queue.Queue()
        threading.Thread(target=self._read, args=(source,), name="commands", daemon=True).start()

    def _read(self, source: IO[str]) -> None:
        for line in source:
            self.commands.put(json.loads(line))
        # The parent is gone, and with it who would judge: end at once, whatever is being done.
        os._exit(0)

    def say(self, kind: str, **data: Any) -> None:
        """A message to the parent."""
        self.sink.write(json.dumps({"kind": kind, **data}) + "\n")
        self.sink.flush()

    def progress(self, text: str) -> None:
        """For a person who waits."""
        self.say("progress", text=text)

    def ready(self) -> None:
        """Wait until every other GPU is ready too."""
        self.say("ready")
        self.commands.get()


Handler = Callable[[Command], Mapping[str, Any]]


class UnableError(Exception):
    """A step could not be done for a reason that is no fault of the GPU."""


class MissingError(Exception):
    """A step needs what this torch does not have; there is nothing to be known of the GPU."""


# A mistake of this program is no fault of the GPU; the run ends as one that could not be done.
BUGS = (AttributeError, LookupError, NameError, TypeError, ValueError, ArithmeticError)
INTERNAL = "internal error: "

# What torch says of a product that it has no kernel for on this device.
NO_SUCH_PRODUCT = ("only supported", "not implemented for", "is not supported")
# After one of these every later call in the process fails with the same.
STICKY = ("CUDA error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_INTERNAL_ERROR", "cudaError")


def describe(error: Exception) -> tuple[Outcome, str, bool]:
    """(outcome, message, whether the process is of no further use)."""
    message = first_line(error)
    sticky = any(word in message for word in STICKY)
    if isinstance(error, MissingError):
        return "skipped", str(error), False
    if not sticky and (isinstance(error, NotImplementedError) or any(word in message for word in NO_SUCH_PRODUCT)):
        return "skipped", f"this torch has no kernel for it here ({message})", False
    if isinstance(error, UnableError):
        return "unknown", str(error), False
    if "out of memory" in message or "CUBLAS_STATUS_NOT_SUPPORTED" in message:
        return "unknown", message, False
    if isinstance(error, BUGS):
        return "unknown", f"{INTERNAL}{message}", False
    return "failed", message, sticky


def serve(handlers: Mapping[str, Handler], line: Line) -> None:
    """Do one command after the other."""
    while True:
        command = line.commands.get()
        if command is None or "do" not in command:
            continue
        try:
            line.say("done", data=handlers[command["do"]](command))
        except Exception as error:  # a fault of the device is what this process is here to find
            outcome, message, broken = describe(error)
            line.say("failed", outcome=outcome, message=message, broken=broken)


def open_line() -> Line:
    """The pipes to the parent. What libraries print on standard output goes to standard error instead."""
    sink = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return Line(sys.stdin, sink)
