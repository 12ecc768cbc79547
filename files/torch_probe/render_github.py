"""The report as workflow commands of GitHub: problems as annotations, the text beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch_probe.render_text import problems, render_text

LEVELS = {"fail": "error", "error": "error", "warn": "warning", "pending_reboot": "warning"}


def render_github(report: Mapping[str, Any]) -> str:
    """One line a problem, then the screen in a group."""
    lines = []
    for check in problems(report["checks"]):
        level = LEVELS.get(check["status"], "notice")
        lines.append(f"::{level} title={_property(check['id'])}::{_data(check['message'])}. {_data(check['remedy'])}")
    return "\n".join([*lines, "::group::torch_probe", render_text(report), "::endgroup::"])


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
