"""devcontainer.json as the specification has it for a workspace of Compose.

No package of npm or PyPI ships the official schema (schemas/devContainer.base.schema.json of devcontainers/spec), and
tests fetch nothing from there. So what it says of the properties that are rendered is written down here, from commit
08c3f97: types, values, what must be there, and that there is nothing else. The scenario dev_container has VS Code's own
reader take the file, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

TEMPLATE = Path(__file__).parents[2] / "roles/dev_container/templates/devcontainer.json.j2"
TEXT, YES_OR_NO = {"type": "string"}, {"type": "boolean"}
TEXTS = {"type": "array", "items": TEXT}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["dockerComposeFile", "service", "workspaceFolder"],
    "additionalProperties": False,
    "properties": {
        "name": TEXT,
        "dockerComposeFile": {"type": ["string", "array"], "items": TEXT},
        "service": TEXT,
        "runServices": TEXTS,
        "workspaceFolder": TEXT,
        "remoteUser": TEXT,
        "updateRemoteUserUID": YES_OR_NO,
        "overrideCommand": YES_OR_NO,
        "shutdownAction": {"enum": ["none", "stopCompose"]},
        "forwardPorts": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 65535}},
        "customizations": {"type": "object"},
    },
}


def rendered(**other: Any) -> Any:
    values = {
        "__dev_container_plan": {"project": "torch-starter-alice", "container_path": "/workspaces/torch_starter"},
        "dev_container_jupyter_port": 8888,
        "dev_container_extensions": ["ms-python.python"],
        **other,
    }
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters["to_json"] = json.dumps
    return json.loads(environment.from_string(TEMPLATE.read_text()).render(**values))


def faults(document: Any) -> list[str]:
    return [f"{fault.json_path}: {fault.message}" for fault in Draft202012Validator(SCHEMA).iter_errors(document)]


@pytest.mark.parametrize("other", [{}, {"dev_container_extensions": []}, {"dev_container_jupyter_port": 65535}])
def test_it_is_what_the_specification_says(other: dict[str, Any]) -> None:
    assert faults(rendered(**other)) == []


@pytest.mark.parametrize(
    "fault",
    [{"service": 1}, {"shutdownAction": "stopContainer"}, {"forwardPorts": [70000]}, {"runArgs": ["--gpus=all"]}],
)
def test_a_fault_would_be_seen(fault: dict[str, Any]) -> None:
    assert faults({**rendered(), **fault})
