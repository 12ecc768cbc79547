"""The report as JUnit XML: one test case a check. What did not run is skipped, never passed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree import ElementTree

# What XML 1.0 cannot hold, not even escaped.
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
SKIPPED = ("skipped", "not_run", "unknown", "pending_reboot")


def render_junit(report: Mapping[str, Any]) -> str:
    """One suite, named after the host."""
    return _document(_suite(report))


def render_junit_fleet(reports: Iterable[Mapping[str, Any]]) -> str:
    """A suite for each host."""
    suites = ElementTree.Element("testsuites", name="gpufleet")
    suites.extend(_suite(report) for report in reports)
    return _document(suites)


def _document(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ElementTree.tostring(root, encoding='unicode')}\n"


def _suite(report: Mapping[str, Any]) -> ElementTree.Element:
    checks = report["checks"]
    statuses = [check["status"] for check in checks]
    suite = ElementTree.Element(
        "testsuite",
        name=_text(f"{report['tool']['name']} on {report['host']['hostname'] or 'this host'}"),
        tests=str(len(checks)),
        failures=str(statuses.count("fail")),
        errors=str(statuses.count("error")),
        skipped=str(sum(statuses.count(status) for status in SKIPPED)),
        timestamp=report["started_at"].rstrip("Z"),
        time=f"{report['duration_s']:.2f}",
    )
    for check in checks:
        group, _, _ = check["id"].rpartition(".")
        name = check["id"] + (f" [{check['gpu']}]" if check["gpu"] else "")
        case = ElementTree.SubElement(suite, "testcase", classname=f"torch_probe.{group}", name=_text(name), time="0")
        message, remedy = _text(check["message"]), _text(check["remedy"] or "")
        if check["status"] in ("fail", "error"):
            kind = "failure" if check["status"] == "fail" else "error"
            ElementTree.SubElement(case, kind, message=message, type=check["severity"]).text = remedy
        elif check["status"] in SKIPPED:
            ElementTree.SubElement(case, "skipped", message=f"{check['status']}: {message}")
        elif check["status"] != "pass":  # JUnit has no warning: such a case passes, and says so
            ElementTree.SubElement(case, "system-out").text = f"{check['status']}: {message}\n{remedy}".strip()
    return suite


def _text(value: str) -> str:
    return FORBIDDEN.sub("?", value)
