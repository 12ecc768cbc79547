"""Filter plugin: the site's proxy as environment variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils.proxy import proxy_environment


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"proxy_environment": proxy_environment}
