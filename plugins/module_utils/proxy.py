"""The site's proxy: one wish, in the words of every program that is to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = ("http_proxy", "https_proxy", "no_proxy")


def proxy_environment(wish: Any) -> dict[str, str]:
    """Return the variables, in both spellings: curl reads HTTP's in small letters alone, others only capitals."""
    if not isinstance(wish, Mapping):
        return {}
    there = {name: str(wish[name]) for name in NAMES if wish.get(name)}
    return {**there, **{name.upper(): value for name, value in there.items()}}
