"""Read OpenPGP public keys: their fingerprints, expiry, and by which hash they are bound. RFC 4880 and RFC 9580.

Only what decides whether a key may sign a repository; no signature is verified here, that is apt's own work.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_PUBLIC_KEY, _SIGNATURE, _USER_ID = 6, 2, 13
# Certifications of a user id, and a signature directly on the key.
_CERTIFICATIONS = (0x10, 0x11, 0x12, 0x13, 0x1F)
_REVOCATION = 0x20
_CREATED, _KEY_LIFETIME, _ISSUER, _ISSUER_FINGERPRINT = 2, 9, 16, 33
_WEAK_HASHES = {1: "MD5", 2: "SHA-1", 3: "RIPEMD-160"}
_BLOCK = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)


class NoKey(Exception):  # noqa: N818 # it is what was found
    """What was read is no public key; the text says why."""


@dataclass
class Key:
    """One primary key."""

    fingerprint: str
    created: int  # seconds since 1970
    expires: int | None = None  # seconds since 1970, None: never
    revoked: bool = False
    # When the newest certification of the key by itself was made, and by which hashes it and the older ones.
    bound_at: int = -1
    bound_by: list[int] = field(default_factory=list)
    user_ids: list[str] = field(default_factory=list)

    @property
    def weak_hash(self) -> str | None:
        """The name of the hash that binds it, where no modern verifier takes that and there is none better."""
        if any(hash_ not in _WEAK_HASHES for hash_ in self.bound_by):
            return None
        return _WEAK_HASHES[self.bound_by[-1]] if self.bound_by else None


def read_keys(data: bytes) -> list[Key]:
    """Return the primary keys of a file, armored or binary.

    Raises:
        NoKey: there is none, or the data breaks off.
    """
    keys: list[Key] = []
    try:
        for tag, body in _packets(_dearmored(data)):
            if tag == _PUBLIC_KEY:
                keys.append(_key(body))
            elif keys and tag == _USER_ID:
                keys[-1].user_ids.append(body.decode("utf-8", "replace"))
            elif keys and tag == _SIGNATURE:
                _sign(keys[-1], body)
    except (IndexError, ValueError) as error:  # ValueError: armor without its empty line, or no base64
        raise NoKey("it breaks off in the middle or is no OpenPGP data") from error
    if not keys:
        raise NoKey("it has no public key")
    return keys


def is_armored(data: bytes) -> bool:
    """Whether the key is text (which apt wants in a file ending in .asc) and not binary (.gpg)."""
    return _BLOCK.search(data) is not None


def _dearmored(data: bytes) -> bytes:
    blocks = _BLOCK.findall(data)
    if not blocks:
        return data
    whole = b""
    for block in blocks:
        # Headers such as "Comment:" end with an empty line, which stands there without any too; "=" begins a checksum.
        lines = [line.strip() for line in block.split(b"\n")]
        start = lines.index(b"") + 1
        whole += base64.b64decode(b"".join(line for line in lines[start:] if not line.startswith(b"=")), validate=True)
    return whole


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        head = data[at]
        if not head & 0x80:
            raise NoKey("it is no OpenPGP data")
        at += 1
        if head & 0x40:
            tag = head & 0x3F
            length, at = _new_length(data, at)
        else:
            tag, size = (head >> 2) & 0x0F, head & 0x03
            if size == 3:
                raise NoKey("it has a packet without a length")
            width = 1 << size
            length, at = int.from_bytes(data[at : at + width], "big"), at + width
        body = data[at : at + length]
        if len(body) < length:
            raise IndexError(at)
        yield tag, body
        at += length


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    if first < 192:
        return first, at + 1
    if first < 224:
        return ((first - 192) << 8) + data[at + 1] + 192, at + 2
    if first == 255:
        return int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
    raise NoKey("it has a packet in parts, which no key has")


def _key(body: bytes) -> Key:
    version = body[0]
    if version == 4:
        fingerprint = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest()
    elif version == 6:
        fingerprint = hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest()
    else:
        raise NoKey(f"its key is of version {version}, which no apt takes any more")
    return Key(fingerprint.upper(), int.from_bytes(body[1:5], "big"))


def _sign(key: Key, body: bytes) -> None:
    """Take what a signature says of the key, where the key made it itself."""
    if body[0] not in (4, 6):
        return
    kind, by, width = body[1], body[3], 2 if body[0] == 4 else 4
    hashed, at = _part(body, 4, width)
    unhashed, _at = _part(body, at, width)
    facts = {**dict(_subpackets(unhashed)), **dict(_subpackets(hashed))}
    issuer = facts.get(_ISSUER_FINGERPRINT, b"\0")[1:].hex().upper() or facts.get(_ISSUER, b"").hex().upper()
    if not issuer or not (key.fingerprint.endswith(issuer) or key.fingerprint.startswith(issuer)):
        return
    if kind == _REVOCATION:
        key.revoked = True
    made = int.from_bytes(facts.get(_CREATED, b"\0"), "big")
    if kind not in _CERTIFICATIONS:
        return
    key.bound_by.append(by)
    if made >= key.bound_at:
        lifetime = int.from_bytes(facts.get(_KEY_LIFETIME, b""), "big")
        key.expires = key.created + lifetime if lifetime else None
        key.bound_at = made


def _part(body: bytes, at: int, width: int) -> tuple[bytes, int]:
    length = int.from_bytes(body[at : at + width], "big")
    at += width
    return body[at : at + length], at + length


def _subpackets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        first = data[at]
        if first < 192:
            length, at = first, at + 1
        elif first < 255:
            length, at = ((first - 192) << 8) + data[at + 1] + 192, at + 2
        else:
            length, at = int.from_bytes(data[at + 1 : at + 5], "big"), at + 5
        yield data[at] & 0x7F, data[at + 1 : at + length]
        at += length
