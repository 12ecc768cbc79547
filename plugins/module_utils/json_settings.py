"""Settings that several owners keep in one JSON file: each merges its own keys and takes only those away again.

What an owner set, and what was there before, is recorded in a file of its own. The record is written before a claim is
carried out and forgotten after it is withdrawn, so that a run that is cut off loses nothing.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils.json_document import Form, JsonError, parse, render, same
from ansible_collections.gpufleet.host.plugins.module_utils.tree import Entry, Step, Tree, look

Claims = dict[str, dict[str, Any]]
Keys = tuple[str, ...]


class SettingsError(Exception):
    """One sentence: what was found, what was wished, what to do."""


class Settings:
    """A look at the file and the records, what follows from it, and its execution."""

    def __init__(self, wish: dict[str, Any], check_mode: bool = False) -> None:
        self.path: str = wish["path"]
        self.owner: str = wish["owner"]
        self.records = str(Path(wish["state_path"], "owned"))
        self.changes: list[dict[str, str]] = []
        self.defaults_left: list[str] = []
        real = os.path.realpath(self.path)
        found = look(real, with_content=True)
        if found is not None and found.kind != "file":
            raise SettingsError(f"{self.path} is no file: move it away.")
        self.existed = found is not None
        self.document, self.form = self._parse((found.content or b"") if found else b"")
        self.before = copy.deepcopy(self.document)
        self.record = self._record(self.owner)
        self.others = self._others()
        mine = self._own(self.record)
        self.claims: Claims = mine.get("claims", {})
        # The file, and the objects in it, that are there only because of this owner.
        self.made = bool(mine.get("made", not self.existed))
        self.objects: list[str] = list(mine.get("objects", []))
        self.kept: Claims = {}
        self._plan(wish)
        self.objects_left = [pointer for pointer in self.objects if any(f"{pointer}/" in claim for claim in self.kept)]
        self.file = self._file_steps(wish, real, check_mode)
        self.last = self._record_steps(self.kept, self.objects_left, check_mode)

    # What is there

    def _parse(self, data: bytes) -> tuple[dict[str, Any], Form]:
        try:
            document: tuple[dict[str, Any], Form] = parse(data)
        except JsonError as error:
            raise SettingsError(f"{self.path}, {error}; then run again. Nothing was changed.") from error
        return document

    def _record(self, owner: str) -> dict[str, Any]:
        path = Path(self.records, f"{owner}.json")
        try:
            # A fraction keeps its digits here as well, as it may have to be written back.
            record: dict[str, Any] = parse(path.read_bytes())[0]
        except FileNotFoundError:
            return {}
        except (JsonError, OSError) as error:
            raise SettingsError(
                f"{path}, the record of what {owner} set, cannot be read ({error}): mend it, or remove it and "
                f"{owner}'s keys in {self.path} by hand."
            ) from error
        return record

    def _own(self, record: dict[str, Any]) -> dict[str, Any]:
        own: dict[str, Any] = record.get("files", {}).get(self.path, {})
        return own

    def _others(self) -> dict[str, dict[str, Any]]:
        names = sorted(path.stem for path in Path(self.records).glob("*.json") if path.stem != self.owner)
        return {name: record for name in names if self._own(record := self._record(name))}

    # The plan

    def _plan(self, wish: dict[str, Any]) -> None:
        wished: dict[str, Any] = {}
        if wish["state"] == "present":
            for group in wish["defaults"]:
                taken = [key for key in group if not self._free(key)]
                self.defaults_left += taken
                wished.update({} if taken else group)
            wished = _merged(wished, wish["settings"])
        leaves = dict(_leaves(wished))
        for keys in [_keys(pointer) for pointer in self.claims]:
            if not any(keys[: len(wanted)] == wanted for wanted in leaves):
                self._withdraw(keys)
        for keys, value in leaves.items():
            self._claim(keys, value)

    def _free(self, key: str) -> bool:
        """Whether a key at the top is set by nobody else."""
        return key not in self.document or any(_keys(pointer)[0] == key for pointer in self.claims)

    def _claim(self, keys: Keys, value: Any) -> None:
        pointer = _pointer(keys)
        self._refuse_dispute(keys, value)
        place = self._place(keys)
        is_there = keys[-1] in place
        now = place.get(keys[-1])
        earlier = self.claims.get(pointer)
        if isinstance(value, list) and "ours" not in (earlier or {}) and (isinstance(now, list) or not is_there):
            have = now or []
            mine = [item for item in (earlier or {}).get("added", []) if _among(item, have)]
            stale = [item for item in mine if not _among(item, value)]
            added = [item for item in value if not _among(item, have)]
            claim: dict[str, Any] = {"added": [item for item in value if _among(item, mine) or _among(item, added)]}
            claim |= {"made": True} if not is_there or (earlier or {}).get("made") else {}
            wanted: Any = [item for item in have if not _among(item, stale)] + added
        else:
            claim = {"ours": value}
            if earlier is not None and "ours" in earlier and is_there and same(now, earlier["ours"]):
                claim |= {"before": earlier["before"]} if "before" in earlier else {}
            elif is_there:
                claim |= {"before": now}
            wanted = value
        self.kept[pointer] = claim
        if not is_there or not same(now, wanted):
            self.changes.append({"path": pointer, "change": "changed" if is_there else "added"})
            place[keys[-1]] = copy.deepcopy(wanted)

    def _refuse_dispute(self, keys: Keys, value: Any) -> None:
        for name, record in self.others.items():
            for pointer, claim in self._own(record)["claims"].items():
                theirs = _keys(pointer)
                length = min(len(theirs), len(keys))
                if theirs[:length] != keys[:length] or (theirs == keys and "ours" not in claim):
                    continue
                if theirs != keys or not same(claim["ours"], value):
                    raise SettingsError(
                        f"{self.path}: {pointer} was set by {name} and {_pointer(keys)} is wished by {self.owner}, "
                        "each with its own value; let one of the two leave it alone."
                    )

    def _place(self, keys: Keys) -> dict[str, Any]:
        """Return the object that holds the last key; what stands in its way is somebody's, and refused."""
        place = self.document
        for depth, key in enumerate(keys[:-1]):
            if key not in place:
                place[key] = {}
                self.objects.append(_pointer(keys[: depth + 1]))
            place = place[key]
            if not isinstance(place, dict):
                raise SettingsError(
                    f"{self.path}: {_pointer(keys[: depth + 1])} is no object, and {_pointer(keys)} is wished inside; "
                    "remove it or make it an object. Nothing was changed."
                )
        return place

    def _withdraw(self, keys: Keys) -> None:
        """Take one claim back: only what is still as we set it, and not what another owner wishes too."""
        pointer = _pointer(keys)
        claim = self.claims[pointer]
        holders = [self.document]
        for key in keys[:-1]:
            inner = holders[-1].get(key)
            if not isinstance(inner, dict):
                return
            holders.append(inner)
        if keys[-1] not in holders[-1] or self._hand_over(pointer, claim):
            return
        now = holders[-1][keys[-1]]
        if "added" in claim:
            self._withdraw_items(holders[-1], keys, claim)
        elif not same(now, claim["ours"]) or ("before" in claim and same(now, claim["before"])):
            return
        elif "before" in claim:
            holders[-1][keys[-1]] = claim["before"]
            self.changes.append({"path": pointer, "change": "restored"})
        else:
            del holders[-1][keys[-1]]
            self.changes.append({"path": pointer, "change": "removed"})
        self._drop_empty(holders, keys)

    def _withdraw_items(self, place: dict[str, Any], keys: Keys, claim: dict[str, Any]) -> None:
        now = place[keys[-1]]
        if not isinstance(now, list):
            return
        left = [item for item in now if not _among(item, claim["added"])]
        if len(left) == len(now) and not (claim.get("made") and not left):
            return
        self.changes.append(
            {"path": _pointer(keys), "change": "removed" if claim.get("made") and not left else "changed"}
        )
        if claim.get("made") and not left:
            del place[keys[-1]]
        else:
            place[keys[-1]] = left

    def _drop_empty(self, holders: list[dict[str, Any]], keys: Keys) -> None:
        """Remove the objects that this owner made and that hold nothing any more."""
        for depth in range(len(keys) - 1, 0, -1):
            if not holders[depth] and _pointer(keys[:depth]) in self.objects:
                del holders[depth - 1][keys[depth - 1]]

    def _hand_over(self, pointer: str, claim: dict[str, Any]) -> bool:
        """Leave a value to another owner that wishes it too, with what was there before any of the two."""
        for record in self.others.values():
            theirs = self._own(record)["claims"].get(pointer)
            if theirs is None or "ours" not in theirs or "ours" not in claim:
                continue
            if same(theirs.get("before"), claim["ours"]):
                theirs.pop("before")
                theirs.update({"before": claim["before"]} if "before" in claim else {})
            return True
        return False

    # The steps

    def _file_steps(self, wish: dict[str, Any], real: str, check_mode: bool) -> Tree:
        entries: list[Entry] = []
        if wish["state"] == "absent" and self.made and not self.document and self.existed:
            entries.append(Entry(real, "absent"))
            self.changes.append({"path": "", "change": "removed"})
        elif not same(self.document, self.before):
            # Made where it is missing; whoever made it before knows its mode.
            entries.append(Entry(str(Path(real).parent), "directory", mode="0755", force=False))
            mode = None if self.existed else wish["mode"]
            content = render(self.document, self.form)
            entries.append(Entry(real, "file", content=content, mode=mode, validate=tuple(wish["validate"] or ())))
        return Tree(entries, check_mode, wish["pending"])

    def _record_steps(self, claims: Claims, objects: list[str], check_mode: bool) -> Tree:
        """Return what makes the records say that this owner has these claims."""
        folder = Path(self.records)
        records = dict(self.others)
        own: dict[str, Any] = {"schema": 1, "files": {**self.record.get("files", {})}}
        own["files"].pop(self.path, None)
        if claims:
            own["files"][self.path] = {"made": self.made, "objects": objects, "claims": claims}
        gone = [Entry(str(folder / f"{self.owner}.json"), "absent")] if not own["files"] else []
        records.update({} if gone else {self.owner: own})
        folders = [Entry(str(place), "directory", mode="0755", force=False) for place in (folder.parent, folder)]
        files = [
            # Readable by root only: a setting may be a secret.
            Entry(str(folder / f"{name}.json"), "file", content=render(record, Form()), mode="0600", secret=True)
            for name, record in records.items()
        ]
        return Tree([*(folders if files else []), *files, *gone], check_mode)

    @property
    def steps(self) -> list[Step]:
        """What changes, of the records only the last state."""
        return [step for step in (*self.file.steps, *self.last.steps) if step.changes]

    def apply(self) -> None:
        """Carry it out: record the claims, change the file, then forget what is no longer claimed."""
        if self.steps:
            self._record_steps({**self.claims, **self.kept}, self.objects, False).apply()
            self.file.apply()
            self._record_steps(self.kept, self.objects_left, False).apply()

    @property
    def keys(self) -> list[str]:
        """Return the keys at the top below which the file changes."""
        names = dict.fromkeys([*self.document, *self.before])
        missing = object()
        pairs = [(name, self.document.get(name, missing), self.before.get(name, missing)) for name in names]
        return [name for name, new, old in pairs if missing in (new, old) or not same(new, old)]


def _merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in more.items():
        mine = both.get(key)
        both[key] = _merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both


def _leaves(settings: dict[str, Any], above: Keys = ()) -> list[tuple[Keys, Any]]:
    """Return each value that is no object with the keys that lead to it; an empty object wishes nothing."""
    found: list[tuple[Keys, Any]] = []
    for key, value in settings.items():
        keys = (*above, str(key))
        found += _leaves(value, keys) if isinstance(value, dict) else [(keys, value)]
    return found


def _among(item: Any, items: list[Any]) -> bool:
    return any(same(item, other) for other in items)


def _pointer(keys: Keys) -> str:
    return "".join(f"/{key.replace('~', '~0').replace('/', '~1')}" for key in keys)


def _keys(pointer: str) -> Keys:
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
