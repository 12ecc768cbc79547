"""apt's sources as text: read both forms, take a repository's entries out, write an entry and its pins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_ONE_LINE = re.compile(r"^\s*(deb|deb-src)\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)")

# How our own files begin.
HEADER = "# Ansible managed: gpufleet.host.apt_source\n"
# What apt takes for "no".
_OFF = ("no", "false", "without", "off", "disable", "0")


@dataclass(frozen=True)
class Place:
    """An address and a suite, written in one way."""

    address: str
    suite: str


def place(uri: str, suite: str, architecture: str = "") -> Place:
    """Return the place of a source: http and https, case of the host and slashes at the end make no difference.

    ``architecture`` is what apt puts where a source says $(ARCH), as NVIDIA's for the container toolkit does.
    """
    uri, suite = (text.replace("$(ARCH)", architecture) for text in (uri, suite))
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


def without(name: str, text: str, places: set[Place], architecture: str = "") -> str:
    """Return a source file's text without the entries of these places; the same text where it has none.

    ``name`` ends in ``.sources`` for the deb822 form; all else is the one-line form. What is switched off stays.
    """
    remove = _stanzas_without if name.endswith(".sources") else _lines_without
    return remove(text, places, architecture)


def has_entries(name: str, text: str) -> bool:
    """Whether anything in a source file is more than comments and space."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return bool(lines) if not name.endswith(".sources") else any(line.lower().startswith("types:") for line in lines)


def _lines_without(text: str, places: set[Place], architecture: str) -> str:
    kept = []
    for line in text.splitlines(keepends=True):
        found = _ONE_LINE.match(line)
        if found is None or place(found["uri"], found["suite"], architecture) not in places:
            kept.append(line)
    return "".join(kept)


def _stanzas_without(text: str, places: set[Place], architecture: str) -> str:
    # Split so that the separators stay: joined again, an untouched text is the same bytes.
    pieces = re.split(r"(\n(?:[ \t]*\n)+)", text)
    stanzas, separators = pieces[0::2], [*pieces[1::2], ""]
    left = [_stanza_without(stanza, places, architecture) for stanza in stanzas]
    if left == stanzas:
        return text
    joined = "".join(stanza + end for stanza, end in zip(left, separators) if stanza).rstrip("\n")
    return f"{joined}\n" if joined else ""


def _stanza_without(stanza: str, places: set[Place], architecture: str) -> str:
    """Return what is left of a stanza, which names every one of its addresses with every one of its suites."""
    fields = _fields(stanza)
    if fields.get("enabled", "yes").lower() in _OFF:
        return stanza
    uris, suites = fields.get("uris", "").split(), fields.get("suites", "").split()
    ours = {uri: [suite for suite in suites if place(uri, suite, architecture) in places] for uri in uris}
    if not any(ours.values()):
        return stanza
    left = []
    others = [uri for uri in uris if not ours[uri]]
    if others:
        left.append(_with_fields(stanza, {"uris": others}))
    for uri in uris:
        stay = [suite for suite in suites if suite not in ours[uri]]
        if ours[uri] and stay:
            left.append(_with_fields(stanza, {"uris": [uri], "suites": stay}))
    return "\n\n".join(left)


def _with_fields(stanza: str, values: dict[str, list[str]]) -> str:
    """Return a stanza with other values of these fields, and all else in it as it was."""
    lines, inside = [], False
    for line in stanza.rstrip("\n").split("\n"):
        if inside and line[:1] in (" ", "\t"):
            continue  # the old value goes on
        name = line.partition(":")[0]
        inside = name.strip().lower() in values and not line.startswith("#")
        lines.append(f"{name}: {' '.join(values[name.strip().lower()])}" if inside else line)
    return "\n".join(lines)


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
    return HEADER + "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def preferences(pins: list[dict[str, Any]]) -> str:
    """Return pins as apt_preferences(5) has them."""
    return HEADER + "\n".join(
        f"Package: {' '.join(pin['packages'])}\nPin: {pin['pin']}\nPin-Priority: {pin['priority']}\n" for pin in pins
    )
