# Copyright: the gpufleet.host contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filters of the role dev_container; each is documented in ``<name>.yml``, the work is done in ``module_utils``."""

from __future__ import annotations

from typing import Any, Callable

from ansible_collections.gpufleet.host.plugins.module_utils import dev_image


class FilterModule:
    """The filters by which an image is named, and told from the last one."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Give the filters by name."""
        return {
            "torch_lock": dev_image.torch_lock,
            "image_hash": dev_image.image_hash,
            "image_differences": dev_image.image_differences,
        }
