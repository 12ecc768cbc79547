# Copyright: the gpufleet.host contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Filters that resolve the catalogue of environment variables and write it for each reader.

Each is documented in ``<name>.yml`` beside this file; the work is done in ``module_utils/env_*.py``.
"""

from __future__ import annotations

from functools import wraps
from typing import Any, Callable, TypeVar

from ansible.errors import AnsibleFilterError
from ansible_collections.gpufleet.host.plugins.module_utils import env_render, env_resolve

T = TypeVar("T")


def _in_words(function: Callable[..., T]) -> Callable[..., T]:
    """Turn a problem with the wishes into Ansible's error, whose text is all that the user sees."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> T:
        try:
            return function(*args, **kwargs)
        except env_resolve.WishError as problem:
            raise AnsibleFilterError(str(problem)) from problem

    return wrapped


class FilterModule:
    """The filters of the role env_profile, used by uv_python and dev_container too."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Give the filters by name."""
        return {
            "env_resolve": _in_words(env_resolve.resolve),
            "env_problems": env_resolve.problems,
            "env_profile_sh": _in_words(env_render.profile_sh),
            "env_user_generator": _in_words(env_render.user_generator),
            "env_unit_file": _in_words(env_render.unit_file),
            "env_docker_file": _in_words(env_render.docker_file),
            "env_uv_toml": _in_words(env_render.uv_toml),
            "env_json": _in_words(env_render.env_json),
        }
