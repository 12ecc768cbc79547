"""One repository of apt's made true: key, source and pins, with everything else that names the same place retired."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils import apt_sources, openpgp
from ansible_collections.gpufleet.host.plugins.module_utils.tree import Entry

_OWN = {"owner": "root", "group": "root"}
BACKUPS = "/var/lib/gpufleet/backup/apt"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class SourceError(Exception):
    """One sentence: what was found, what was wished, what to do."""


class NoAnswerError(SourceError):
    """The key cannot be had; nothing is known of what it would be."""


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
        # What cannot be brought back, because somebody has changed it since.
        self.kept: list[str] = []

    # --- present

    def present(self, fetch: Callable[[str], bytes], check_mode: bool = False) -> list[Entry]:
        """Return what shall be true, in the order in which a run that is killed leaves apt working.

        Args:
            fetch: gets the key from its address.
            check_mode: a key that cannot be had stays unknown: an earlier role of the real run may open the way to it.

        Raises:
            SourceError: the key is not the one that was wished, or cannot be had.
        """
        if not self.wish["uris"]:
            return [*self._pins(), *self._removal([self.source_path, *self.keyring_paths])]
        key = self._key(fetch, check_mode)
        text = apt_sources.stanza(self.wish, self._keyring(key).removeprefix(self.root))
        # Pins first: with the source alone, the next upgrade would take what they are to forbid.
        return [
            *self._pins(),
            *self._retirement(),
            *self._key_entries(key),
            Entry(f"{self.root}/etc/apt/sources.list.d", "directory"),
            self._file(self.source_path, text.encode()),
        ]

    def _pins(self) -> list[Entry]:
        pins = self.wish["pins"]
        if not pins:
            return [Entry(self.pins_path, "absent")] if self._is_ours(self.pins_path) else []
        return [
            *self._backup_of_foreign(self.pins_path),
            Entry(f"{self.root}/etc/apt/preferences.d", "directory"),
            self._file(self.pins_path, apt_sources.preferences(pins).encode()),
        ]

    def _file(self, path: str, content: bytes) -> Entry:
        return Entry(path, "file", content=content, mode="0644", **self.owner)

    def _key(self, fetch: Callable[[str], bytes], check_mode: bool) -> bytes | None:
        """Return the key's bytes: those on the host where they are right, so that a converged host needs no network."""
        text = self.wish["key"]
        if text:
            return self._checked(text.encode(), "key")
        for path in self.keyring_paths:
            found = _read(path)
            if found is not None and self._trouble(found) is None:
                return found
        url = self.wish["key_url"]
        try:
            data = fetch(url)
        except NoAnswerError:
            if check_mode:
                return None
            raise
        return self._checked(data, f"key_url={url}")

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

    def _keyring(self, key: bytes | None) -> str:
        """Return the path of the key: gpgv reads text only from .asc, and anything else only from .gpg."""
        if key is None:
            return self.keyring_paths[1 if self.wish["key_url"].endswith(".gpg") else 0]
        return self.keyring_paths[0 if openpgp.is_armored(key) else 1]

    def _key_entries(self, key: bytes | None) -> list[Entry]:
        right = self._keyring(key)
        content = f"(fetched from {self.wish['key_url']})\n".encode() if key is None else key
        others = [Entry(path, "absent") for path in self.keyring_paths if path != right]
        return [
            Entry(f"{self.root}/etc/apt/keyrings", "directory", **self.owner),
            self._file(right, content),
            *([] if key is None else others),
        ]

    # --- other sources for the same place

    def _retirement(self) -> list[Entry]:
        architecture = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)
        uris, suites = self.wish["uris"], self.wish["suites"]
        places = {apt_sources.place(uri, suite, architecture) for uri in uris for suite in suites}
        entries = self._backup_of_foreign(self.source_path)
        for path in self._source_files():
            text = _text(path)
            left = apt_sources.without(path, text, places, architecture)
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
        entries = self._backup(path, text, stays)
        if stays is None:
            return [*entries, Entry(path, "absent")]
        private = not _mode(path) & stat.S_IROTH
        return [*entries, Entry(path, "file", content=stays.encode("utf-8", "surrogateescape"), secret=private)]

    def _is_ours(self, path: str) -> bool:
        return _text(path).startswith(apt_sources.HEADER)

    def _backup_of_foreign(self, path: str) -> list[Entry]:
        """Return a backup of what somebody else has put where our own file goes, nothing where there is none."""
        if not Path(path).is_file() or self._is_ours(path):
            return []
        self.retired.append(path.removeprefix(self.root))
        return self._backup(path, _text(path), None)

    def _backup(self, path: str, text: str, stays: str | None) -> list[Entry]:
        record = {
            "path": path.removeprefix(self.root),
            "before": text,
            "after": stays,
            "mode": f"{_mode(path):04o}",
            # Ours will lie where these lay; what comes back must find them again.
            "keyrings": {
                place: base64.b64encode(_read(f"{self.root}{place}") or b"").decode()
                for place in (keyring.removeprefix(self.root) for keyring in self.keyring_paths)
                if place in text and Path(f"{self.root}{place}").is_file()
            },
        }
        backup = f"{self.backups}/{str(record['path']).strip('/').replace('/', '_')}.json"
        known = _record(backup)
        if known is not None and known["after"] == text:  # a second entry in a file that was retired from before
            record = {**known, "after": stays}
        parents = [parent for parent in reversed(self._backup_folders()) if parent != self.backups]
        entries = [Entry(parent, "directory", **self.owner) for parent in [*parents, self.backups]]
        content = f"{json.dumps(record, indent=2)}\n".encode()
        # A source may carry a password in its address.
        return [*entries, Entry(backup, "file", content=content, mode="0600", secret=True, **self.owner)]

    def _backup_folders(self) -> list[str]:
        """Return our own folders on the way to the backups, the innermost first."""
        state = f"{self.root}/var/lib/gpufleet"
        parents = (str(parent) for parent in Path(self.backups).parents)
        return [self.backups, *(parent for parent in parents if parent.startswith(state))]

    # --- absent

    def absent(self) -> list[Entry]:
        """Return what takes the repository away and brings retired sources back, where nobody changed them since."""
        return self._removal([self.pins_path, self.source_path, *self.keyring_paths])

    def _removal(self, own: list[str]) -> list[Entry]:
        """Return what removes our own files and brings back what they had displaced."""
        going = {path: Entry(path, "absent") for path in own if path in self.keyring_paths or self._is_ours(path)}
        done: list[str] = []
        for backup in sorted(map(str, Path(self.backups).glob("*.json"))):
            record = _record(backup)
            if record is not None and f"{self.root}{record['path']}" == self.pins_path not in own:
                continue  # the pins stay
            if record is None or not self._can_come_back(record):
                self.kept.append(backup.removeprefix(self.root))
                continue
            done.append(backup)
            for entry in self._coming_back(record):
                if entry.path not in going or going[entry.path].state == "absent":
                    going[entry.path] = entry
        # Removed first and brought back then: never two sources for one place.
        ordered = sorted(going.values(), key=lambda entry: entry.state != "absent")
        return [*ordered, *(Entry(backup, "absent") for backup in done), *self._empty_folders(done)]

    def _can_come_back(self, record: dict[str, Any]) -> bool:
        """Whether the file is as we left it, or as it was before we came."""
        path = f"{self.root}{record['path']}"
        if path in (self.source_path, self.pins_path):
            return not Path(path).exists() or self._is_ours(path) or _text(path) == record["before"]
        now = _text(path) if Path(path).is_file() else None
        return now in (record["after"], record["before"])

    def _coming_back(self, record: dict[str, Any]) -> list[Entry]:
        """Return the file as it was, after the keys that it names."""
        keys = [
            self._file(f"{self.root}{place}", base64.b64decode(content))
            for place, content in record.get("keyrings", {}).items()
        ]
        mode = record.get("mode", "0644")
        content = record["before"].encode("utf-8", "surrogateescape")
        private = not int(mode, 8) & stat.S_IROTH
        return [*keys, Entry(f"{self.root}{record['path']}", "file", content=content, mode=mode, secret=private)]

    def _empty_folders(self, done: list[str]) -> list[Entry]:
        """Return our folders that would be left empty, the innermost first; the collection's own stays."""
        going = set(done)
        entries = []
        for folder in self._backup_folders()[:-1]:
            if not Path(folder).is_dir() or {str(child) for child in Path(folder).iterdir()} - going:
                break
            going.add(folder)
            entries.append(Entry(folder, "absent"))
        return entries


def _read(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


def _text(path: str) -> str:
    return (_read(path) or b"").decode("utf-8", "surrogateescape")


def _mode(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def _record(path: str) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(_text(path))
    except ValueError:
        return None
    return record if {"path", "before", "after"} <= set(record) else None
