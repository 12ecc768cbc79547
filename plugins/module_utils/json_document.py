"""JSON that people and programs write by turns: read strictly, with line and column, and written back as it was.

The standard library's reader takes the last of two equal keys without a word and rounds large fractions, so the grammar
is read here; its strings are the library's own.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_BOM = "\ufeff"
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"(-?(?:0|[1-9]\d*))((?:\.\d+)?(?:[eE][+-]?\d+)?)")
_WORDS: tuple[tuple[str, Any], ...] = (("true", True), ("false", False), ("null", None))
_DEEPEST = 100
# Python refuses to turn a text of more than 4300 digits into a number.
_LONGEST_INTEGER = 4000


class JsonError(Exception):
    """What is wrong, with the place, and what to do."""

    def __init__(self, text: str, at: int, found: str, remedy: str) -> None:
        line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
        super().__init__(f"line {line}, column {column}: {found}; {remedy}")


class Number(float):
    """A number with the digits it was written with."""

    text: str

    def __new__(cls, text: str) -> Number:
        """Keep the text beside the value."""
        number = super().__new__(cls, text)
        number.text = text
        return number


class Form(NamedTuple):
    """How a document was written."""

    bom: bool = False
    indent: str | None = "  "
    newline: str = "\n"
    end: str = "\n"


def parse(data: bytes) -> tuple[dict[str, Any], Form]:
    """Return the document's object and its form; an empty document is an empty object.

    Raises:
        JsonError: it is no JSON object, with the place and the remedy.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        readable = data[: error.start].decode("utf-8")
        raise JsonError(readable, len(readable), "a byte that is no UTF-8", "save the file as UTF-8") from error
    bom = text.startswith(_BOM)
    text = text[len(_BOM) :] if bom else text
    if not text.strip():
        return {}, Form(bom)
    reader = _Reader(text)
    value, end = reader.value(reader.skip(0), 0)
    if reader.skip(end) != len(text):
        raise reader.error(reader.skip(end), "more text after the end of the document", "remove it")
    if not isinstance(value, dict):
        raise reader.error(reader.skip(0), "no object", "the document has to begin with {")
    return value, _form(text, bom)


def _form(text: str, bom: bool) -> Form:
    indented = re.search(r"\n([ \t]+)\S", text)
    newline = "\r\n" if "\r\n" in text else "\n"
    indent = indented.group(1) if indented else (None if "\n" not in text.strip() and len(text.strip()) > 2 else "  ")
    return Form(bom, indent, newline, text[len(text.rstrip()) :].replace("\r\n", "\n"))


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text

    def error(self, at: int, found: str, remedy: str) -> JsonError:
        for mark in ("//", "/*", "#"):
            if self.text.startswith(mark, at):
                return JsonError(
                    self.text, at, f"a comment ({mark})", "JSON has none, so remove it or keep it in another file"
                )
        return JsonError(self.text, at, found, remedy)

    def skip(self, at: int) -> int:
        space = _SPACE.match(self.text, at)
        return space.end() if space else at

    def value(self, at: int, depth: int) -> tuple[Any, int]:
        if depth > _DEEPEST:
            raise self.error(at, f"more than {_DEEPEST} levels", "no settings are so deep: look at who wrote it")
        start = self.text[at : at + 1]
        if start == "{":
            return self.object(at, depth)
        if start == "[":
            return self.array(at, depth)
        if start == '"':
            return self.string(at)
        for word, meaning in _WORDS:
            if self.text.startswith(word, at):
                return meaning, at + len(word)
        number = _NUMBER.match(self.text, at)
        if number:
            whole = not number.group(2) and len(number.group(0)) < _LONGEST_INTEGER
            return (int(number.group(0)) if whole else Number(number.group(0))), number.end()
        what = "the end of the file" if not start else f"{start!r}"
        raise self.error(at, f"{what} where a value belongs", "complete or remove what stands there")

    def string(self, at: int) -> tuple[str, int]:
        try:
            text, end = json.decoder.scanstring(self.text, at + 1, True)  # type: ignore[attr-defined]
        except json.JSONDecodeError as error:
            raise self.error(error.pos, f"a broken string ({error.msg})", "mend it") from error
        return text, end

    def array(self, at: int, depth: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        at = self.skip(at + 1)
        if self.text.startswith("]", at):
            return items, at + 1
        while True:
            item, at = self.value(at, depth + 1)
            items.append(item)
            at, more = self.more(at, "]")
            if not more:
                return items, at

    def object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        at = self.skip(at + 1)
        if self.text.startswith("}", at):
            return members, at + 1
        while True:
            if not self.text.startswith('"', at):
                raise self.error(at, "no key in double quotes", 'write "key": value')
            key, end = self.string(at)
            if key in members:
                raise self.error(at, f"the key {key!r} for the second time", "keep one of the two")
            at = self.skip(end)
            if not self.text.startswith(":", at):
                raise self.error(at, f"no colon after the key {key!r}", 'write "key": value')
            members[key], at = self.value(self.skip(at + 1), depth + 1)
            at, more = self.more(at, "}")
            if not more:
                return members, at

    def more(self, at: int, close: str) -> tuple[int, bool]:
        """Return where it goes on after an item, and whether another one follows."""
        at = self.skip(at)
        if self.text.startswith(close, at):
            return at + 1, False
        if not self.text.startswith(",", at):
            raise self.error(at, f"neither a comma nor {close}", "complete what stands before it")
        following = self.skip(at + 1)
        if self.text.startswith(close, following):
            raise self.error(at, f"a comma before {close}", "remove it")
        return following, True


def render(document: dict[str, Any], form: Form) -> bytes:
    """Return the document as bytes, in that form."""
    text = _text(document, form.indent, "\n") + form.end
    return ((_BOM if form.bom else "") + text.replace("\n", form.newline)).encode("utf-8")


def _text(value: Any, indent: str | None, margin: str) -> str:
    if isinstance(value, (dict, list)) and value:
        inner = margin + indent if indent is not None else " "
        colon = ": "
        if isinstance(value, dict):
            parts = [f"{_string(key)}{colon}{_text(item, indent, inner)}" for key, item in value.items()]
        else:
            parts = [_text(item, indent, inner) for item in value]
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        if indent is None:
            return opening + ", ".join(parts) + closing
        return opening + inner + f",{inner}".join(parts) + margin + closing
    if isinstance(value, str):
        return _string(value)
    return value.text if isinstance(value, Number) else json.dumps(value)


def _string(text: str) -> str:
    alone = any("\ud800" <= character <= "\udfff" for character in text)  # half of a pair has no bytes of its own
    return json.dumps(text, ensure_ascii=alone)


def same(one: Any, other: Any) -> bool:
    """Whether two values are one in JSON: true is not 1, and the order of keys does not count."""
    return bool(_canonical(one) == _canonical(other))


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return _text(value, None, "")
