# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible filter: the fleet's report and its renderings."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_documents
short_description: Make a fleet's report from the records of its hosts, in all its renderings
version_added: 0.2.0
description:
  - Compares equal GPUs across hosts as P(gpufleet.host.probe_compare#filter) does, and versions of equal hosts.
  - The report holds what C(docs/fleet.schema.json) names and nothing else, whatever a host has sent.
  - One filter for all, as the data of a thousand hosts take Ansible longer to carry than to render.
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
    msg: "{{ (results | gpufleet.host.fleet_documents(time, '0.2.0')).lines }}"
  vars:
    time: "{{ now(utc=true, fmt='%Y-%m-%dT%H:%M:%SZ') }}"
"""

RETURN = r"""
_value:
  description: The report as C(json), C(html), C(junit) and C(prometheus) (texts), and as C(lines) for a screen.
  type: dict
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpufleet.host.files.torch_probe.render_junit import render_junit_fleet
from ansible_collections.gpufleet.host.files.torch_probe.render_prometheus import render_prometheus_fleet
from ansible_collections.gpufleet.host.plugins.plugin_utils import fleet
from ansible_collections.gpufleet.host.plugins.plugin_utils.fleet_html import render_html


def fleet_documents(results: Any, time: str, collection: str, stale_days: float = fleet.STALE_DAYS) -> dict[str, Any]:
    """Return the report in all its renderings."""
    if not isinstance(results, Mapping):
        raise AnsibleFilterError("gpufleet.host.fleet_documents needs a mapping of host to a result of host_record")
    report = fleet.fleet_report(results, str(time), str(collection), float(stale_days))
    return {
        "json": json.dumps(report, ensure_ascii=False) + "\n",
        "html": render_html(report),
        "junit": fleet_junit(report),
        "prometheus": fleet_prometheus(report),
        "lines": fleet.lines_of(report),
    }


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
        """Return the filter by its name."""
        return {"fleet_documents": fleet_documents}
