"""One repository of apt's made true: key, source and pins, with everything else that names the same place retired."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils import apt_sources, openpgp
from ansible_collections.gpufleet.host.plugins.module_utils.tree import Entry

_OWN = {"owner": "root", "group": "root"}
BACKUPS = "/var/lib/gpufleet/backup/apt"


class SourceError(Exception):
    """One sentence: what was found, what was wished, what to do."""


class AptSource:
    """A wish and the host's present state; ``root`` is another directory in tests."""

    def __init__(self, wish: dict[str, Any], root: str = "", owner: dict[str, str] | None = None) -> None:
        self.wish = wish
        self.root = root
        self.owner = _OWN if owner is None else owner
        name = wish["name"]
        self.keyring_paths = [f"{root}/etc/apt/keyrings/{name}.{end}" for end in ("asc", "gpg")]
        self.source_path = f"{root}/etc/apt/sources.list.d/{name}.sources"
        self.pins_path = f"{root}/etc/apt/preferences.d/{name}"
        self.backups = f"{root}{BACKUPS}/{name}"
        self.retired: list[str] = []

    # --- present

    def present(self, fetch: Callable[[str], bytes] | None) -> list[Entry]:
        """Return what shall be true, in the order in which a run that is killed leaves apt working.

        Args:
            fetch: gets the key from its address; None in check mode, where a key that is not there stays unknown.

        Raises:
            SourceError: the key is not the one that was wished, or cannot be had.
        """
        entries: list[Entry] = []
        if self.wish["uris"]:
            key = self._key(fetch)
            entries += self._retirement() + self._key_entries(key)
            keyring = self.keyring_paths[0 if key is None or openpgp.is_armored(key) else 1].removeprefix(self.root)
            entries.append(self._file(self.source_path, apt_sources.stanza(self.wish, keyring).encode()))
        pins = self.wish["pins"]
        text = apt_sources.preferences(pins).encode() if pins else None
        return [*entries, self._file(self.pins_path, text) if text else Entry(self.pins_path, "absent")]

    def _file(self, path: str, content: bytes) -> Entry:
        return Entry(path, "file", content=content, mode="0644", **self.owner)

    def _key(self, fetch: Callable[[str], bytes] | None) -> bytes | None:
        """Return the key's bytes: those on the host where they are right, so that a converged host needs no network."""
        text = self.wish["key"]
        if text:
            return self._checked(text.encode(), "key")
        for path in self.keyring_paths:
            found = _read(path)
            if found is not None and self._trouble(found) is None:
                return found
        if fetch is None:
            return None
        url = self.wish["key_url"]
        return self._checked(fetch(url), f"key_url={url}")

    def _checked(self, data: bytes, wished: str) -> bytes:
        trouble = self._trouble(data)
        if trouble is None:
            return data
        wish = ", ".join(self._fingerprints())
        raise SourceError(
            f"{self.wish['name']}: Found {trouble}; wished is {wished} with the fingerprint {wish}; compare with what "
            "its owner publishes, then give the right key or fingerprint."
        )

    def _fingerprints(self) -> list[str]:
        return [print_.replace(" ", "").upper() for print_ in self.wish["fingerprints"]]

    def _trouble(self, data: bytes) -> str | None:
        """Return what is wrong with a key, in words."""
        try:
            keys = openpgp.read_keys(data)
        except openpgp.NoKey as error:
            return f"no key, as {error}"
        for key in keys:
            if key.fingerprint not in self._fingerprints():
                named = f" ({key.user_ids[0]})" if key.user_ids else ""
                return f"the key {key.fingerprint}{named}"
            if key.revoked:
                return f"the key {key.fingerprint}, which its owner has revoked"
            if key.expires is not None and key.expires < time.time():
                when = time.strftime("%Y-%m-%d", time.gmtime(key.expires))
                return f"the key {key.fingerprint}, which has expired on {when}"
            if key.weak_hash and self.refuses_weak():
                return (
                    f"the key {key.fingerprint} bound by {key.weak_hash}, which this system's apt has not taken since "
                    "2026-02-01"
                )
        return None

    def refuses_weak(self) -> bool:
        """Whether apt asks sqv here, which refuses SHA-1; where it asks gpgv, that is still taken."""
        return Path(f"{self.root}/usr/bin/sqv").exists()

    def _key_entries(self, key: bytes | None) -> list[Entry]:
        armored, binary = self.keyring_paths
        entries = [
            Entry(f"{self.root}/etc/apt/keyrings", "directory", **self.owner),
            Entry(f"{self.root}/etc/apt/sources.list.d", "directory"),
        ]
        if key is None:  # check mode: that it comes is known, not what it is
            return [*entries, self._file(armored, b"(fetched from " + self.wish["key_url"].encode() + b")\n")]
        right, other = (armored, binary) if openpgp.is_armored(key) else (binary, armored)
        return [*entries, self._file(right, key), Entry(other, "absent")]

    # --- other sources for the same place

    def _retirement(self) -> list[Entry]:
        places = {apt_sources.place(uri, suite) for uri in self.wish["uris"] for suite in self.wish["suites"]}
        entries: list[Entry] = []
        for path in self._source_files():
            text = (_read(path) or b"").decode("utf-8", "surrogateescape")
            left = apt_sources.without(path, text, places)
            if left != text:
                self.retired.append(path.removeprefix(self.root))
                entries += self._retire(path, text, left)
        return entries

    def _source_files(self) -> list[str]:
        apt = f"{self.root}/etc/apt"
        files = [f"{apt}/sources.list", *sorted(map(str, Path(f"{apt}/sources.list.d").glob("*")))]
        return [path for path in files if path.endswith((".list", ".sources")) and path != self.source_path]

    def _retire(self, path: str, text: str, left: str) -> list[Entry]:
        """Return a backup that says what was there and what stays, and then the change itself."""
        stays = left if apt_sources.has_entries(path, left) else None
        record = {"path": path.removeprefix(self.root), "before": text, "after": stays}
        backup = f"{self.backups}/{path.removeprefix(self.root).strip('/').replace('/', '_')}.json"
        known = _json(backup)
        if known is not None and known["after"] == text:  # a second entry in a file that was retired from before
            record["before"] = known["before"]
        parents = [
            str(parent)
            for parent in reversed(Path(self.backups).parents)
            if str(parent).startswith(f"{self.root}/var/lib/gpufleet")
        ]
        entries = [Entry(parent, "directory", **self.owner) for parent in [*parents, self.backups]]
        # A source may carry a password in its address.
        entries.append(
            Entry(backup, "file", content=f"{json.dumps(record, indent=2)}\n".encode(), mode="0600", **self.owner)
        )
        if stays is None:
            return [*entries, Entry(path, "absent")]
        return [*entries, Entry(path, "file", content=stays.encode("utf-8", "surrogateescape"))]

    # --- absent

    def absent(self) -> list[Entry]:
        """Return what takes the repository away and brings retired sources back, where nobody changed them since."""
        own = [self.source_path, self.pins_path, *self.keyring_paths]
        entries = [Entry(path, "absent") for path in own]
        for backup in sorted(map(str, Path(self.backups).glob("*.json"))):
            record = _json(backup)
            if record is None:
                continue
            path = f"{self.root}{record['path']}"
            now = _read(path)
            after = record["after"]
            if now == (None if after is None else after.encode("utf-8", "surrogateescape")):
                content = record["before"].encode("utf-8", "surrogateescape")
                entries.append(Entry(path, "file", content=content, mode=None if now is not None else "0644"))
            entries.append(Entry(backup, "absent"))
        return [*entries, Entry(self.backups, "absent")]


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def _json(path: str) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads((_read(path) or b"").decode("utf-8", "surrogateescape"))
    except ValueError:
        return None
    return record if {"path", "before", "after"} <= set(record) else None
