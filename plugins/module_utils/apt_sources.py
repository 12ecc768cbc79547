"""apt's sources as text: read both forms, take a repository's entries out, write an entry and its pins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_ONE_LINE = re.compile(r"^\s*(deb|deb-src)\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)")


@dataclass(frozen=True)
class Place:
    """An address and a suite, written in one way."""

    address: str
    suite: str


def place(uri: str, suite: str) -> Place:
    """Return the place of a source: http and https, case of the host and slashes at the end make no difference."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Place(uri.rstrip("/"), _suite(suite))
    scheme = "http" if scheme.lower() in ("http", "https") else scheme.lower()
    host, _slash, path = rest.partition("/")
    host = host.rpartition("@")[2].lower()
    folder = re.sub("/+", "/", path).strip("/")
    return Place(f"{scheme}://{host}/{folder}", _suite(suite))


def _suite(suite: str) -> str:
    plain = suite.strip("/")
    return "/" if plain in ("", ".") else plain


def without(name: str, text: str, places: set[Place]) -> str:
    """Return a source file's text without the entries of these places; the same text where it has none.

    ``name`` ends in ``.sources`` for the deb822 form; all else is the one-line form. What is switched off stays.
    """
    return _stanzas_without(text, places) if name.endswith(".sources") else _lines_without(text, places)


def has_entries(name: str, text: str) -> bool:
    """Whether anything in a source file is more than comments and space."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return bool(lines) if not name.endswith(".sources") else any(line.lower().startswith("types:") for line in lines)


def _lines_without(text: str, places: set[Place]) -> str:
    kept = []
    for line in text.splitlines(keepends=True):
        found = _ONE_LINE.match(line)
        if found is None or place(found["uri"], found["suite"]) not in places:
            kept.append(line)
    return "".join(kept)


def _stanzas_without(text: str, places: set[Place]) -> str:
    # Split so that the separators stay: joined again, an untouched text is the same bytes.
    pieces = re.split(r"(\n[ \t]*\n)", text)
    stanzas, separators = pieces[0::2], [*pieces[1::2], ""]
    kept = [(s, e) for s, e in zip(stanzas, separators) if not _names_one(_fields(s), places)]
    if len(kept) == len(stanzas):
        return text
    joined = "".join(stanza + end for stanza, end in kept).rstrip("\n")
    return f"{joined}\n" if joined else ""


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.lstrip().startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            fields[name] += " " + line.strip()
        elif ":" in line:
            name, _colon, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _names_one(fields: dict[str, str], places: set[Place]) -> bool:
    if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off"):
        return False
    suites = fields.get("suites", "").split()
    return any(place(uri, suite) in places for uri in fields.get("uris", "").split() for suite in suites)


def stanza(wish: dict[str, Any], keyring: str) -> str:
    """Return a source in deb822 form."""
    fields = {
        "Types": "deb",
        "URIs": " ".join(wish["uris"]),
        "Suites": " ".join(wish["suites"]),
        "Components": " ".join(wish["components"]),
        "Architectures": " ".join(wish["architectures"]),
        "Signed-By": keyring,
    }
    return _HEADER + "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def preferences(pins: list[dict[str, Any]]) -> str:
    """Return pins as apt_preferences(5) has them."""
    return _HEADER + "\n".join(
        f"Package: {' '.join(pin['packages'])}\nPin: {pin['pin']}\nPin-Priority: {pin['priority']}\n" for pin in pins
    )


_HEADER = "# Ansible managed: gpufleet.host.apt_source\n"
