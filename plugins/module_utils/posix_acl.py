"""POSIX ACLs as the kernel keeps them in extended attributes.

The tools of the acl package are not on a bare host, and asking for them would be a package for two system calls.
The format is the kernel's ABI (include/uapi/linux/posix_acl_xattr.h): a little-endian version, then entries of tag,
permissions and id, sorted by tag and id.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

_VERSION = 2
_NO_ID = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_LETTERS = {USER_OBJ: "u", USER: "u", GROUP_OBJ: "g", GROUP: "g", MASK: "m", OTHER: "o"}
_KINDS = {
    "u": (USER_OBJ, USER),
    "user": (USER_OBJ, USER),
    "g": (GROUP_OBJ, GROUP),
    "group": (GROUP_OBJ, GROUP),
    "m": (MASK, None),
    "mask": (MASK, None),
    "o": (OTHER, None),
    "other": (OTHER, None),
}


class AclError(ValueError):
    """The text is no ACL; the message says which part of it and why."""


@dataclass(frozen=True, order=True)
class AclEntry:
    """One line of an ACL; the order of the fields is the order the kernel wants."""

    tag: int
    id: int
    perm: int


Acl = list[AclEntry]
Resolve = Callable[[str, str], int]


def parse(text: str, resolve: Resolve) -> Acl:
    """Read `u::rwx,g::rwx,g:ml:rwx,m::rwx,o::r-x`, or what getfacl prints.

    resolve(kind, name) gives the id for kind `user` or `group`. An empty text is the empty ACL (none at all).
    A missing mask is computed as setfacl does: the union of all that it would mask.
    """
    found: dict[tuple[int, int], AclEntry] = {}
    for part in _parts(text):
        entry = _parse_entry(part, resolve)
        if (entry.tag, entry.id) in found:
            raise AclError(f'"{part}" is there twice')
        found[entry.tag, entry.id] = entry
    if not found:
        return []
    entries = list(found.values())
    for tag, letter in ((USER_OBJ, "u::"), (GROUP_OBJ, "g::"), (OTHER, "o::")):
        if not any(entry.tag == tag for entry in entries):
            raise AclError(f'"{letter}" is missing')
    masked = [entry.perm for entry in entries if entry.tag in (USER, GROUP_OBJ, GROUP)]
    if len(masked) > 1 and not any(entry.tag == MASK for entry in entries):
        union = 0
        for perm in masked:
            union |= perm
        entries.append(AclEntry(MASK, _NO_ID, union))
    return sorted(entries)


def _parts(text: str) -> list[str]:
    lines = (line.split("#")[0] for line in text.splitlines())
    return [part.strip() for line in lines for part in line.split(",") if part.strip()]


def _parse_entry(part: str, resolve: Resolve) -> AclEntry:
    fields = part.split(":")
    if len(fields) != 3 or fields[0] not in _KINDS:
        raise AclError(f'"{part}" is not of the form u:NAME:rwx, g:NAME:rwx, m::rwx or o::rwx')
    plain, named = _KINDS[fields[0]]
    if not re.fullmatch(r"[r-]?[w-]?[x-]?", fields[2]) or not fields[2]:
        raise AclError(f'"{part}" does not end in permissions such as rwx or r-x')
    perm = sum(bit for letter, bit in (("r", 4), ("w", 2), ("x", 1)) if letter in fields[2])
    if not fields[1]:
        return AclEntry(plain, _NO_ID, perm)
    if named is None:
        raise AclError(f'"{part}" names somebody where nobody can be named')
    return AclEntry(named, resolve("user" if named == USER else "group", fields[1]), perm)


def encode(acl: Acl) -> bytes:
    """Give the value of the extended attribute."""
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", e.tag, e.perm, e.id) for e in sorted(acl))


def decode(value: bytes) -> Acl:
    """Read the value of the extended attribute."""
    if len(value) < 4 or (len(value) - 4) % 8 or struct.unpack_from("<I", value)[0] != _VERSION:
        raise AclError("the kernel gave an ACL in an unknown format")
    entries = (struct.unpack_from("<HHI", value, offset) for offset in range(4, len(value), 8))
    return sorted(AclEntry(tag, ident, perm) for tag, perm, ident in entries)


def from_mode(mode: int) -> Acl:
    """Give the ACL that nine permission bits are."""
    return [
        AclEntry(USER_OBJ, _NO_ID, mode >> 6 & 7),
        AclEntry(GROUP_OBJ, _NO_ID, mode >> 3 & 7),
        AclEntry(OTHER, _NO_ID, mode & 7),
    ]


def to_mode(acl: Acl) -> int:
    """Give the nine bits that stat shows for this ACL: with a mask, the group's bits are the mask."""
    perms = {entry.tag: entry.perm for entry in acl if entry.tag not in (USER, GROUP)}
    return perms[USER_OBJ] << 6 | perms.get(MASK, perms[GROUP_OBJ]) << 3 | perms[OTHER]


def to_text(acl: Acl, name_of: Callable[[str, int], str]) -> str:
    """Write an ACL in the form that parse reads; name_of(kind, id) gives the names."""
    parts = []
    for entry in acl:
        name = ""
        if entry.tag in (USER, GROUP):
            name = name_of("user" if entry.tag == USER else "group", entry.id)
        bits = "".join(letter if entry.perm & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        parts.append(f"{_LETTERS[entry.tag]}:{name}:{bits}")
    return ",".join(parts)
