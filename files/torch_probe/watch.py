"""Ends a run at its deadline or on a signal, with a report."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import NoReturn

from torch_probe.common import EXIT_CANNOT_RUN
from torch_probe.output import finish
from torch_probe.run import Run


class Watch:
    """Ends the run at its deadline or on SIGINT and SIGTERM, with a report.

    A thread of its own: a hung device never returns to Python, where an ordinary signal handler would run. The signals
    are blocked in every other thread and taken by this one.
    """

    SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})

    def __init__(self, run: Run) -> None:
        self.run = run
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._wait, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self.before = signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, self.before)

    def _wait(self) -> None:
        end = self.run.start + self.run.options.timeout
        while not self.over.is_set():
            caught = signal.sigtimedwait(self.SIGNALS, 0.1)
            if caught is None and time.monotonic() < end:
                continue
            with self.run.lock:  # the run may have come to its end meanwhile
                if not self.over.is_set():
                    self._stop(caught.si_signo if caught else None)

    def _stop(self, signal_number: int | None) -> NoReturn:
        run, code = self.run, None
        if signal_number is not None:
            name = signal.Signals(signal_number).name
            code = 128 + signal_number
            run.abort("error", f"stopped by {name} while {run.phase}", "Run the probe again.")
        elif run.on_gpu:
            remedy = "Read `dmesg | grep -i xid`; a GPU that hangs needs a reset or a reboot. Or give more --timeout."
            run.abort("fail", f"no answer within {run.options.timeout:g} s while {run.phase}", remedy)
        else:
            run.abort("error", f"not done within {run.options.timeout:g} s while {run.phase}", "Give more --timeout.")
        try:
            code = finish(run, code)
        finally:
            os._exit(EXIT_CANNOT_RUN if code is None else code)


# =====================================================================================================================
