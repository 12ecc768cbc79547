"""The words that site ends with: what of containers is there, a line each, on a screen of eighty columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from ansible.plugins.filter.core import FilterModule as Core
from ansible.plugins.test.core import TestModule as CoreTests
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import make_plan
from host_facts import host

TEMPLATE = Path(__file__).parents[2] / "playbooks/templates/summary.txt.j2"
ALICE = {"uid": 1000, "gid": 1000, "group": "alice", "home": "/home/alice", "home_exists": True, "home_links": {}}
IMAGE = "torch-starter:cu13-2f0c1a2b3c4d"
BUILT = {"torch-starter-alice": {"image": IMAGE, "seconds": 305.2, "size_bytes": 7312345678, "time": "x"}}
ENGINE: dict[str, Any] = {
    "engines": {"docker": "26.1.5", "podman": None, "containerd": None},
    "containers__packages": {"docker.io": "26.1.5", "docker-compose": "2.26.1-4", "docker-buildx": "0.13.1"},
    "users": {"alice": ALICE},
}


def told(facts: dict[str, Any], wishes: dict[str, Any], **more: Any) -> list[str]:
    plan = make_plan(facts, wishes)
    assert plan["refusals"] == []
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters["regex_replace"] = Core().filters()["regex_replace"]
    environment.tests["match"] = CoreTests().tests()["match"]
    template = environment.from_string(TEMPLATE.read_text())
    text = template.render(__gpufleet_facts=facts, __gpufleet_plan=plan, inventory_hostname="gpu01", **more)
    return [line for line in text.splitlines() if line.startswith(("engine", "workspace", "image"))]


def test_engine_workspace_and_image_have_a_line_each() -> None:
    facts = host(**ENGINE, containers__built=BUILT)
    wishes = {"containers": True, "users": ["alice"], "toolkit_without_gpu": True}
    found = told(facts, wishes)
    assert found == [
        "engine    Docker 26.1.5 (compose 2.26.1, buildx 0.13.1), GPUs by CDI",
        "workspace /workspaces/torch_starter of alice: ./dev.sh help",
        f"image     {IMAGE}, 7.3 GB, found, built in 305 s",
    ]
    assert max(map(len, found)) <= 80
    (image,) = [line for line in told(facts, wishes, __dev_container_built={"rc": 0}) if line.startswith("image")]
    assert image == f"image     {IMAGE}, 7.3 GB, built now in 305 s"


def test_a_workspace_without_an_image_says_none() -> None:
    assert [line.split()[0] for line in told(host(**ENGINE), {"containers": True, "users": ["alice"]})] == [
        "engine",
        "workspace",
    ]


def test_a_host_without_containers_has_no_line_of_them() -> None:
    assert told(host(), {}) == []
