# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible callback: a calm console."""

from __future__ import annotations

DOCUMENTATION = r"""
name: calm
type: stdout
short_description: Show which host is at what, for how long, and a summary that fits a screen
version_added: 0.2.0
description:
  - On a terminal a line stays for each role that is done, and below moves what each host is at, with its time. Errors,
    warnings and diffs are shown in full, as the default callback shows them. At the end comes the summary, the worst
    host first.
  - Without a terminal, by ansible-runner, and with C(-v), it is the default callback. A log (C(log_path)) gets every
    task either way.
  - C(./run site) uses it on a terminal. Elsewhere write C(stdout_callback = gpufleet.host.calm) into ansible.cfg.
author:
  - The gpufleet.host contributors (@gpufleet)
extends_documentation_fragment:
  - ansible.builtin.default_callback
  - ansible.builtin.result_format_callback
"""

import atexit
import os
import shutil
import sys
import threading
import time
from typing import Any

from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.gpufleet.host.plugins.plugin_utils.console import Console

_CLEAR_BELOW = "\r\x1b[J"
_SECONDS = 0.5


class Screen:
    """The moving part at the end of a terminal.

    The cursor rests at its top, so that what anybody else prints goes over it and is not lost. Written to the
    descriptor itself: a lock of Python's own streams must not be held by this thread while Ansible forks a worker.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._process = descriptor, os.getpid()
        self._lock, self._shown = threading.Lock(), False

    def show(self, lines: list[str]) -> None:
        """Draw it anew."""
        with self._lock:
            back = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
            self._write(_CLEAR_BELOW + "\n".join(lines) + back + "\r")
            self._shown = True

    def clear(self) -> None:
        """Take it away, before something else is printed. A forked worker has none."""
        if os.getpid() != self._process:
            return
        with self._lock:
            if self._shown:
                self._write(_CLEAR_BELOW)
                self._shown = False

    def _write(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # the terminal has gone
                return


class CallbackModule(Default):  # type: ignore[misc]  # Ansible's own classes have no types
    """What Ansible calls. Where there is nothing to be calm about, the default's methods do all."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "gpufleet.host.calm"

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(begun=time.monotonic())
        # ansible-runner gives a terminal of its own, and reads its events out of what is written there.
        nobody = os.environ.get("TERM") == "dumb" or "ORIGINAL_STDOUT_CALLBACK" in os.environ
        self._calm = sys.stdout.isatty() and self._display.verbosity == 0 and not nobody
        self._stopped = threading.Event()
        self._screen = Screen(sys.stdout.fileno()) if self._calm else None
        if self._screen is not None:
            self._give_way(self._screen)
            atexit.register(self._end)
            threading.Thread(target=self._beat, daemon=True).start()

    def _give_way(self, screen: Screen) -> None:
        """Whatever Ansible prints, from wherever, is preceded by taking the moving part away."""
        original = self._display.display

        def display(*args: Any, **options: Any) -> Any:
            if not options.get("log_only"):
                screen.clear()
            answer = original(*args, **options)
            sys.stdout.flush()
            return answer

        self._display.display = display

    def _beat(self) -> None:
        """Draw twice a second, whatever else happens: a run that hangs can be told from one that works."""
        pulse = 0
        while not self._stopped.wait(_SECONDS):
            pulse += 1
            size = shutil.get_terminal_size()
            try:
                lines = self._console.frame(size.columns, size.lines, time.monotonic(), pulse)
            except RuntimeError:  # a host came in between; the next beat shows it
                continue
            if self._screen is not None and not self._stopped.is_set():
                self._screen.show(lines)

    def _end(self) -> None:
        self._stopped.set()
        if self._screen is not None:
            self._screen.clear()

    def _stay(self, lines: list[str]) -> None:
        for line in lines:
            self._display.display(line)

    def _log(self, text: str) -> None:
        self._display.display(text, log_only=True)

    # --- what Ansible calls

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Note the play's hosts."""
        if not self._calm:
            super().v2_playbook_on_play_start(play)
            return
        self._play = play
        self._stay(self._console.role_ends(time.monotonic()))
        self._stay([play.get_name().strip() + (" (check mode)" if play.check_mode else "")])

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        if not self._calm:
            super()._task_start(task, prefix)
            return
        self._task_type_cache[task._uuid] = prefix or "TASK"
        self._last_task_name = task.get_name().strip()
        self._log(f"{prefix or 'TASK'} [{self._last_task_name}]")
        role = task._role.get_name().rpartition(".")[2] if task._role else ""
        self._stay(self._console.task(role, time.monotonic()))

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Note that a host begins a task."""
        if not self._calm:
            super().v2_runner_on_start(host, task)
            return
        self._console.begins(host.get_name(), task.get_name().rpartition(" : ")[2], time.monotonic())

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note what became of it, and show what the run has to say."""
        if not self._calm:
            super().v2_runner_on_ok(result)
            return
        host, found = result.host.get_name(), result.result
        changed = bool(found.get("changed"))
        self._log(f"{'changed' if changed else 'ok'}: [{host}]")
        self._console.ends(host, changed=changed)
        kept = found.get("ansible_facts")
        report = kept.get("__torch_probe_report") if isinstance(kept, dict) else None
        if isinstance(report, dict):
            self._console.measured(host, str(report.get("status") or ""), str(report.get("summary") or ""))
        self._handle_warnings_and_exception(result)
        if result.task.action.rpartition(".")[2] == "debug" and "msg" in found:
            self._said(host, result.task.get_name(), found["msg"])

    def _said(self, host: str, task: str, message: Any) -> None:
        """Of one host all that it says is shown, of many the last is kept for the summary."""
        text = "\n".join(map(str, message)) if isinstance(message, list) else str(message)
        self._log(text)
        if task == "Summary":
            self._console.says(host, text)
        elif len(self._console.hosts) == 1:
            self._display.display(text, screen_only=True)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Note that there was nothing to do."""
        if not self._calm:
            super().v2_runner_on_skipped(result)
            return
        self._console.ends(result.host.get_name(), "skipped")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Show an error in full."""
        if self._calm:
            state = "ok" if ignore_errors else "failed"
            self._console.ends(result.host.get_name(), state, str(result.result.get("msg") or ""))
        super().v2_runner_on_failed(result, ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Show in full why a host does not answer."""
        if self._calm:
            self._console.ends(result.host.get_name(), "unreachable", str(result.result.get("msg") or ""))
        super().v2_runner_on_unreachable(result)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """An included file is nothing to know."""
        if not self._calm:
            super().v2_playbook_on_include(included_file)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """An item is part of a task."""
        if not self._calm:
            super().v2_runner_item_on_ok(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """An item is part of a task."""
        if not self._calm:
            super().v2_runner_item_on_skipped(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """End with a summary that fits a screen."""
        if not self._calm:
            super().v2_playbook_on_stats(stats)
            return
        now = time.monotonic()
        self._stay(self._console.role_ends(now))
        self._end()
        failed, dark = ({host for host in stats.processed if of.get(host)} for of in (stats.failures, stats.dark))
        size = shutil.get_terminal_size()
        self._stay(["", *self._console.summary(size.columns, size.lines, now, failed, dark)])
