# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible callback: a run in check mode ends with a table of what differs."""

from __future__ import annotations

DOCUMENTATION = r"""
name: drift
type: aggregate
short_description: End a run in check mode with a table of what differs
version_added: 0.2.0
description:
  - After C(ansible-playbook gpufleet.host.site --check --diff) a line for each host and object that the run would
    change, with the role, and the time of the host's last record, since which it has come to differ.
  - Costs no module. Without check mode it is silent, and beside an output for machines (a callback called json).
  - For use from an installed collection write C(callbacks_enabled = gpufleet.host.drift) into ansible.cfg.
author:
  - The gpufleet.host contributors (@gpufleet)
"""

from typing import Any

from ansible import constants, context
from ansible.playbook.handler import Handler
from ansible.plugins.callback import CallbackBase
from ansible_collections.gpufleet.host.plugins.plugin_utils.drift import Drift, objects_of


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible's own classes have no types
    """What Ansible calls."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "gpufleet.host.drift"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._drift = Drift()

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Stay out of a run that changes things, where a change is no drift, and of output that machines read."""
        self.disabled = not context.CLIARGS.get("check") or "json" in str(constants.DEFAULT_STDOUT_CALLBACK)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note the look, the plan, and each change."""
        host, task, found = result.host.get_name(), result.task, result.result
        facts = found.get("facts")
        if task.action.endswith("gpu_facts") and isinstance(facts, dict):
            self._drift.looked(host, facts.get("record"))
        kept = found.get("ansible_facts")
        if isinstance(kept, dict) and "__gpufleet_plan" in kept:
            self._drift.planned(host, kept["__gpufleet_plan"])
        # A handler follows from a change that was noted; a delegated task changes another host.
        if found.get("changed") and not isinstance(task, Handler) and not task.delegate_to:
            role = task._role.get_name().rpartition(".")[2] if task._role else "play"
            self._drift.differs(host, role, objects_of(task.get_name().rpartition(" : ")[2], found))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note why a host was left, unless a rescue follows: the run's statistics tell that."""
        if not ignore_errors:
            self._drift.lost(result.host.get_name(), result.result.get("msg") or "")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note that a host does not answer."""
        self._drift.lost(result.host.get_name(), result.result.get("msg") or "")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the table."""
        failed = [host for host in stats.processed if stats.failures.get(host) or stats.dark.get(host)]
        lines = self._drift.lines(failed)
        if lines:
            self._display.display("\n" + "\n".join(lines))
