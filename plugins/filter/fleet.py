# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible filters: the fleet's report and its renderings."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_report
short_description: Make a fleet's report from the records of its hosts
version_added: 0.2.0
description:
  - Compares equal GPUs across hosts as P(gpufleet.host.probe_compare#filter) does, and versions of equal hosts.
  - The result holds what C(docs/fleet.schema.json) names and nothing else, whatever a host has sent.
positional: time, collection, stale_days
options:
  _input:
    description: A mapping of host to its result of M(gpufleet.host.host_record); any other result is a state.
    type: dict
    required: true
  time:
    description: Now, in UTC, as C(2026-11-25T12:00:00Z).
    type: str
    required: true
  collection:
    description: Version of the collection.
    type: str
    required: true
  stale_days:
    description: Days after which a record is called old.
    type: float
    default: 30
author:
  - The gpufleet.host contributors (@gpufleet)
"""

EXAMPLES = r"""
- name: Say what is to know
  ansible.builtin.debug:
    msg: "{{ results | gpufleet.host.fleet_report(time, '0.2.0') | gpufleet.host.fleet_lines }}"
  vars:
    time: "{{ now(utc=true, fmt='%Y-%m-%dT%H:%M:%SZ') }}"
"""

RETURN = r"""
_value:
  description: The report; C(docs/fleet.schema.json) names every field.
  type: dict
"""

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpufleet.host.files.torch_probe.render_junit import render_junit_fleet
from ansible_collections.gpufleet.host.files.torch_probe.render_prometheus import render_prometheus_fleet
from ansible_collections.gpufleet.host.plugins.plugin_utils import fleet
from ansible_collections.gpufleet.host.plugins.plugin_utils.fleet_html import render_html


def fleet_report(results: Any, time: str, collection: str, stale_days: float = fleet.STALE_DAYS) -> dict[str, Any]:
    """Return the report."""
    if not isinstance(results, Mapping):
        raise AnsibleFilterError("gpufleet.host.fleet_report needs a mapping of host to a result of host_record")
    report: dict[str, Any] = fleet.fleet_report(results, time, collection, float(stale_days))
    return report


def fleet_junit(report: dict[str, Any]) -> str:
    """Return a suite for each host, by the probe's own writer."""
    # A test run has a time; of a host that nobody measured it is the report's.
    found = fleet.reports_of(report).values()
    text: str = render_junit_fleet(
        {**one, "started_at": one["started_at"] or report["time"], "duration_s": one["duration_s"] or 0.0}
        for one in found
    )
    return text


def fleet_prometheus(report: dict[str, Any]) -> str:
    """Return a text file for node_exporter, by the probe's own writer."""
    text: str = render_prometheus_fleet(fleet.reports_of(report))
    return text


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {
            "fleet_html": render_html,
            "fleet_junit": fleet_junit,
            "fleet_lines": fleet.lines_of,
            "fleet_prometheus": fleet_prometheus,
            "fleet_report": fleet_report,
        }
