# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Shapes of data that comes from elsewhere: what is not named is dropped, what is of another type is unknown.

One description serves both: ``clean`` makes a value true to it, ``schema`` tells it as JSON Schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ansible_collections.gpufleet.host.plugins.module_utils.redact import redact

# Control characters, and those that turn the direction of text or cannot be seen.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


_LARGEST = 10**18


class Shape(Protocol):
    """What a value has to be."""

    def clean(self, value: Any) -> Any:
        """Return the value as far as it has this shape, else None (or nothing in it)."""

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of what ``clean`` returns."""


@dataclass(frozen=True)
class Text:
    """Text of a bounded length on one line, without control characters and secrets."""

    most: int = 300

    def clean(self, value: Any) -> str | None:
        """Numbers are no text: a version has to have come as one."""
        if not isinstance(value, str):
            return None
        # Cut twice: first so that nothing huge is searched, then because what is hidden may be longer than its sign.
        text = redact(value[: 4 * self.most])
        text = " ".join(_UNSEEN.sub("\ufffd", text).split())
        return text if len(text) <= self.most else text[: self.most - 1] + "…"

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": ["string", "null"], "maxLength": self.most}


@dataclass(frozen=True)
class Number:
    """A finite number; of a rate that is zero or less nothing can be said."""

    whole: bool = False
    above_zero: bool = False

    def clean(self, value: Any) -> float | int | None:
        """A truth value is no number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        # Not a number is not below it either; and an integer may be too large for a float.
        if not abs(value) < _LARGEST or (self.above_zero and value < 1e-9):
            return None
        return int(value) if self.whole else value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": ["integer" if self.whole else "number", "null"]}


@dataclass(frozen=True)
class Flag:
    """True, false or unknown."""

    def clean(self, value: Any) -> bool | None:
        """Only a truth value is one."""
        return value if isinstance(value, bool) else None

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": ["boolean", "null"]}


@dataclass(frozen=True)
class Choice:
    """One of these words; anything else is the last of them."""

    words: tuple[str, ...]

    def clean(self, value: Any) -> str:
        """Return the word."""
        return value if isinstance(value, str) and value in self.words else self.words[-1]

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"enum": list(self.words)}


@dataclass(frozen=True)
class Many:
    """A list of a bounded length. What has not the shape is left out."""

    of: Shape
    most: int

    def clean(self, value: Any) -> list[Any]:
        """Return what fits."""
        found = [self.of.clean(item) for item in value[: self.most]] if isinstance(value, (list, tuple)) else []
        return [item for item in found if item is not None]

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "array", "items": self.of.schema(), "maxItems": self.most}


@dataclass(frozen=True)
class Fields:
    """A mapping with these names and no others; every one of them is there."""

    of: Mapping[str, Shape]
    about: str = ""

    def clean(self, value: Any) -> dict[str, Any]:
        """Return all names."""
        found = value if isinstance(value, Mapping) else {}
        return {name: shape.clean(found.get(name)) for name, shape in self.of.items()}

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {
            "type": "object",
            **({"description": self.about} if self.about else {}),
            "properties": {name: shape.schema() for name, shape in self.of.items()},
            "required": list(self.of),
            "additionalProperties": False,
        }
