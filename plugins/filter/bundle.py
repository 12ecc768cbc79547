"""Filter plugin: what an offline bundle has to have for hosts like this one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils.dev_plan import TOOLS
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import make_plan


def bundle_needs(facts: dict[str, Any], wishes: dict[str, Any]) -> dict[str, Any]:
    """Return the packages, and the repositories beside the distribution's, of a bare host of this release."""
    bare = copy.deepcopy(facts)
    bare["engines"] = dict.fromkeys(bare["engines"])
    bare["containers"]["packages"] = {}
    plan = make_plan(bare, {**wishes, "toolkit_without_gpu": True, "offline": False})
    parts = [plan["engine"], plan["toolkit"]] if wishes.get("containers") else []
    if plan["driver"]["action"] == "install":
        parts.append(plan["driver"])
    packages = ["ca-certificates", *(TOOLS if wishes.get("containers") else [])]
    packages += [name for part in parts for name in part["packages"]]
    return {
        "packages": list(dict.fromkeys(packages)),
        "repositories": [part["repository"] for part in parts if part["repository"]],
    }


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"bundle_needs": bundle_needs}
