"""What is at given paths of a host, who given users and groups are, and which uv and venv are there."""

from __future__ import annotations

import contextlib
import errno
import grp
import hashlib
import os
import pwd
import re
import stat
from pathlib import Path
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils._root import Root, to_int

_ACL = "system.posix_acl_default"
# Where users are used to put a link to a larger disk, and where the role ml_cache puts one.
_HOME_LINKS = (".cache/huggingface", ".cache/torch/hub/checkpoints", ".kaggle")


def look_at_path(root: Root, path: str) -> dict[str, Any]:
    """Return one value of the ``paths`` fact."""
    kind = _kind(root, path)
    ancestor = _nearest(root, path)
    mount = _mount(root, ancestor)
    return {
        "kind": kind,
        "ancestor": ancestor,
        "ancestor_kind": _kind(root, ancestor),
        "mount": mount["point"],
        "filesystem": mount["filesystem"],
        "read_only": mount["read_only"],
        "noexec": mount["noexec"],
        "free_bytes": _free(root, ancestor),
        "acl": _acl(root, ancestor),
    }


def _kind(root: Root, path: str) -> str:
    real = root.real(path)
    try:
        mode = Path(real).stat().st_mode
    except (OSError, ValueError):
        try:
            Path(real).lstat()
        except (OSError, ValueError):
            return "none"
        return "other"  # a link to nowhere, or one in a circle: nothing can be made in its place
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else "other"


def _nearest(root: Root, path: str) -> str:
    """Return the path itself or the nearest of its parents that exists."""
    current = "/" + path.strip("/")
    while current != "/" and _kind(root, current) == "none":
        current = str(Path(current).parent)
    return current


def _mount(root: Root, path: str) -> dict[str, Any]:
    """Return the mount that a path lies on, by the longest mount point that holds it; the later of two equal ones."""
    real = os.path.realpath(path) if root.is_live else path
    best: dict[str, Any] = {"point": None, "filesystem": None, "read_only": None, "noexec": None}
    for line in root.lines("/proc/self/mountinfo"):
        before, _dash, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 6 or not kinds:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), fields[4])
        holds = point == "/" or real == point or real.startswith(point + "/")
        if holds and len(point) >= len(best["point"] or ""):
            options = fields[5].split(",")
            best = {
                "point": point,
                "filesystem": kinds[0],
                "read_only": "ro" in options,
                "noexec": "noexec" in options,
            }
    return best


def _free(root: Root, path: str) -> int | None:
    try:
        space = os.statvfs(root.real(path))
    except (OSError, ValueError):
        return None
    return space.f_bavail * space.f_frsize


def _acl(root: Root, path: str) -> bool | None:
    """Whether the filesystem keeps POSIX ACLs: asking for one that is not there says so without writing one."""
    try:
        os.getxattr(root.real(path), _ACL)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return True
        return False if error.errno == errno.EOPNOTSUPP else None
    except ValueError:
        return None
    return True


def look_at_user(root: Root, name: str) -> dict[str, Any] | None:
    """Return one value of the ``users`` fact."""
    if root.is_live:
        try:
            entry = pwd.getpwnam(name)
            numbers = os.getgrouplist(name, entry.pw_gid)
        except (KeyError, OSError, ValueError):
            return None
        names = [_group_name(number) for number in numbers]
        return _user(root, entry.pw_uid, entry.pw_gid, entry.pw_dir, _group_name(entry.pw_gid), names)
    for fields in _table(root, "/etc/passwd", 7):
        uid, gid = to_int(fields[2]), to_int(fields[3])
        if fields[0] == name and uid is not None and gid is not None:
            groups = _table(root, "/etc/group", 4)
            own = next((group[0] for group in groups if group[2] == fields[3]), None)
            others = [group[0] for group in groups if name in group[3].split(",")]
            return _user(root, uid, gid, fields[5], own, [own, *others])
    return None


def _user(root: Root, uid: int, gid: int, home: str, group: str | None, groups: list[str | None]) -> dict[str, Any]:
    return {
        "uid": uid,
        "gid": gid,
        "group": group,
        "home": home or None,
        "home_exists": bool(home) and _kind(root, home) == "directory",
        "home_links": {path: target for path in _HOME_LINKS if (target := root.link(f"{home}/{path}")) is not None},
        "groups": sorted({item for item in groups if item}),
        # What Docker's own script for a rootless engine leaves.
        "rootless_docker": bool(home) and root.exists(f"{home}/.config/systemd/user/docker.service"),
    }


def user_name(root: Root, uid: int | None) -> str | None:
    """Return the name of a user id."""
    if uid is None:
        return None
    if root.is_live:
        with contextlib.suppress(KeyError, OSError, OverflowError):
            return pwd.getpwuid(uid).pw_name
        return None
    return next((fields[0] for fields in _table(root, "/etc/passwd", 7) if fields[2] == str(uid)), None)


def _group_name(gid: int) -> str | None:
    with contextlib.suppress(KeyError, OSError):
        return grp.getgrgid(gid).gr_name
    return None


def look_at_group(root: Root, name: str) -> dict[str, Any] | None:
    """Return one value of the ``groups`` fact; members are those that the group database lists."""
    if root.is_live:
        try:
            entry = grp.getgrnam(name)
        except (KeyError, OSError, ValueError):
            return None
        return {"gid": entry.gr_gid, "members": sorted(entry.gr_mem)}
    for fields in _table(root, "/etc/group", 4):
        gid = to_int(fields[2])
        if fields[0] == name and gid is not None:
            return {"gid": gid, "members": sorted(member for member in fields[3].split(",") if member)}
    return None


def _table(root: Root, path: str, columns: int) -> list[list[str]]:
    rows = (line.split(":") for line in root.lines(path))
    return [row for row in rows if len(row) == columns]


def look_at_uv(root: Root, path: str) -> dict[str, str | None]:
    """Return the ``uv`` fact."""
    digest = hashlib.sha256()
    try:
        with open(root.real(path), "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    except (OSError, ValueError):
        return {"path": path, "version": None, "sha256": None}
    spoken = re.match(r"uv (\d+\.\d+\.\d+\S*)", root.command(path, "--version") or "")
    return {"path": path, "version": spoken.group(1) if spoken else None, "sha256": digest.hexdigest()}


def look_at_venv(root: Root, path: str) -> dict[str, Any]:
    """Return the ``venv`` fact; an environment whose interpreter has gone has no Python."""
    settings = {}
    for line in root.lines(f"{path}/pyvenv.cfg"):
        key, _equals, value = line.partition("=")
        settings[key.strip().lower()] = value.strip()
    version = settings.get("version_info") or settings.get("version") or None
    if not _starts(root, path):
        version = None
    libraries = [f"{path}/lib/{name}/site-packages" for name in root.names(f"{path}/lib") if name.startswith("python")]
    torch = None
    for library in libraries:
        found = (re.fullmatch(r"torch-(.+)\.dist-info", name) for name in root.names(library))
        torch = next((match.group(1) for match in found if match), torch)
    places = [path, f"{path}/bin", f"{path}/lib", *libraries]
    return {
        "path": path,
        "python": version,
        "base": _base(root, settings.get("home")) if version else None,
        "torch": torch,
        "incomplete": sorted({name for library in libraries for name in _incomplete(root, library)}),
        "writable_by_others": any(_writable_by_others(root, place) for place in places),
    }


def _base(root: Root, home: str | None) -> str | None:
    """Return where the environment's Python itself lies; uv links a minor version to its newest patch."""
    if not home:
        return None
    prefix = Path(home).parent
    target = root.link(str(prefix))
    return os.path.normpath(prefix.parent / target) if target else str(prefix)


def _incomplete(root: Root, library: str) -> list[str]:
    """Return the packages of which a file is gone; uv looks at their names and versions only.

    Bytecode is left out, as Python makes it itself.
    """
    found = []
    for name in root.names(library):
        if name.endswith(".dist-info"):
            rows = (line.rsplit(",", 2)[0].strip('"') for line in root.lines(f"{library}/{name}/RECORD"))
            files = (row for row in rows if row and not row.endswith(".pyc"))
            if not all(root.exists(f"{library}/{row}") for row in files):
                found.append(name.partition("-")[0])
    return found


def _starts(root: Root, path: str) -> bool:
    """Whether the environment's interpreter is there; in a tree its absolute link is followed inside the tree."""
    interpreter = f"{path}/bin/python"
    for _hop in range(8):
        target = root.link(interpreter)
        if target is None:
            return bool(root.exists(interpreter))
        interpreter = os.path.normpath(Path(interpreter).parent / target)
    return False


def _writable_by_others(root: Root, path: str) -> bool:
    try:
        return bool(Path(root.real(path)).stat().st_mode & stat.S_IWOTH)
    except (OSError, ValueError):
        return False
