"""Make a list of directories, files and links true: first look at everything, then change.

Nothing here knows Ansible, so that tests call it as it is. All work on the disk goes through descriptors of the parent
directories, opened one component at a time: some of the paths lie in directories that a user can write to, and root
must not be led through a link that the user puts there while we work.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import fnmatch
import grp
import os
import pwd
import re
import secrets
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.gpufleet.host.plugins.module_utils import posix_acl
from ansible_collections.gpufleet.host.plugins.module_utils.posix_acl import Acl

# What a name that does not exist yet resolves to in check mode: equal to nobody's id.
_UNKNOWN_ID = 0xFFFFFFFE
# Larger files are not read for a diff, only for the comparison.
_DIFF_BYTES = 256 * 1024
_SELINUX = "security.selinux"
_KIND_WORDS = {"directory": "a directory", "file": "a file", "link": "a symbolic link", "other": "a special file"}


class TreeError(Exception):
    """One sentence: what was found, what was wished, what to do."""


@dataclass(frozen=True)
class Entry:
    """One wish, as the module's documentation describes it."""

    path: str
    state: str
    content: bytes | None = None
    owner: str | None = None
    group: str | None = None
    mode: str | None = None
    access_acl: str | None = None
    default_acl: str | None = None
    target: str | None = None
    validate: tuple[str, ...] = ()
    force: bool = True
    follow: bool = False
    recurse: bool = False
    secret: bool = False
    glob: bool = False


@dataclass(frozen=True)
class Found:
    """What lies at a path now."""

    kind: str
    status: os.stat_result
    access: Acl = field(default_factory=list)
    default: Acl = field(default_factory=list)
    content: bytes | None = None
    target: str | None = None


@dataclass
class Attributes:
    """Who may do what. None means: leave it as it is; an empty ACL means: none."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    access: Acl | None = None
    default: Acl | None = None


@dataclass
class Step:
    """What one entry comes to: nothing when changes is empty."""

    entry: Entry
    path: str
    found: Found | None
    wished: Attributes
    changes: list[str] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    # Whether the mark of an unfinished run stands in this directory, and has made it just now.
    marked: bool = False


def parse_entry(raw: dict[str, Any]) -> Entry:
    """Turn the module's parameters for one entry into an Entry.

    Raises TreeError for what no type of a parameter catches: an unquoted mode, a relative path, an option without use.
    """
    path = raw["path"]
    if not path.startswith("/") or ".." in path.split("/"):
        raise TreeError(f'path "{path}" is not absolute and plain: give it from the root, without "..".')
    path = os.path.normpath("/" + path.lstrip("/"))
    if path == "/":
        raise TreeError('path "/" is the root of the filesystem: name something below it.')
    state = raw["state"]
    _refuse_useless(path, state, raw)
    content = raw.get("content")
    if content is not None and not isinstance(content, str):
        raise TreeError(
            f"{path}: content is of type {type(content).__name__}, not text: "
            "end the template with a filter such as to_nice_json."
        )
    mode = raw.get("mode")
    if mode is not None and not (isinstance(mode, str) and re.fullmatch(r"[0-7]{3,4}", mode)):
        raise TreeError(f'{path}: mode {mode!r} is not a quoted octal number of three or four digits, such as "0644".')
    validate = tuple(raw.get("validate") or ())
    if validate and not any("%s" in word for word in validate):
        raise TreeError(f"{path}: validate has no %s, so it would check something else than the new file.")
    return Entry(
        path=path,
        state=state,
        content=None if content is None else _bytes_of(path, content, raw.get("encoding")),
        owner=raw.get("owner"),
        group=raw.get("group"),
        mode=mode,
        access_acl=raw.get("access_acl"),
        default_acl=raw.get("default_acl"),
        target=raw.get("target"),
        validate=validate,
        force=raw.get("force") is not False,
        follow=bool(raw.get("follow")),
        recurse=bool(raw.get("recurse")),
        secret=bool(raw.get("secret")),
        glob=bool(raw.get("glob")),
    )


def _bytes_of(path: str, content: str, encoding: str | None) -> bytes:
    if encoding != "base64":
        return content.encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as problem:
        raise TreeError(f"{path}: content is not base64 ({problem}): leave encoding out for text.") from problem


def _refuse_useless(path: str, state: str, raw: dict[str, Any]) -> None:
    """An option that cannot have an effect is a mistake of the caller, not something to pass over."""
    useful = {
        "directory": {"owner", "group", "mode", "access_acl", "default_acl", "force", "follow"},
        "file": {"owner", "group", "mode", "access_acl", "content", "validate", "force", "follow", "secret"},
        "link": {"owner", "group", "target"},
        "absent": {"recurse", "glob", "target", "force"},
    }[state]
    options = (
        "content",
        "owner",
        "group",
        "mode",
        "access_acl",
        "default_acl",
        "target",
        "validate",
        "follow",
        "recurse",
        "glob",
    )
    for option in options:
        if raw.get(option) and option not in useful:
            raise TreeError(f"{path}: {option} means nothing for state {state}: leave it out.")
    if state == "link" and not raw.get("target"):
        raise TreeError(f"{path}: state link needs a target.")


class Tree:
    """A look at the disk, the steps that follow from it, and their execution."""

    def __init__(self, entries: list[Entry], check_mode: bool = False, pending: str | None = None) -> None:
        self.check_mode = check_mode
        self.pending = pending
        self.steps: list[Step] = []
        self.done: list[Step] = []
        # What earlier entries of the same list will have made of a path.
        self._planned: dict[str, str] = {}
        for entry in _without_repetition(_without_patterns(entries)):
            self.steps.append(self._plan(entry))
        self.unfinished = pending is not None and os.path.lexists(pending)

    def apply(self) -> None:
        """Carry out the steps; on an error `done` has those that were made before it."""
        if self.pending is not None and any(step.changes for step in self.steps):
            _mark(self.pending)
            for step in self.steps:
                step.marked = Path(step.path) in Path(self.pending).parents
        for step in self.steps:
            if not step.changes:
                continue
            try:
                _APPLY[step.entry.state](step)
            except OSError as error:
                raise TreeError(
                    f"{step.path}: {error.strerror or error} while it was being made true; mend that and run again."
                ) from error
            self.done.append(step)

    # The plan

    def _plan(self, entry: Entry) -> Step:
        path = os.path.realpath(entry.path) if entry.follow else entry.path
        try:
            found = look(path, with_content=entry.content is not None)
        except OSError as error:
            raise TreeError(f"{path}: {error.strerror or error}, so it cannot be compared: run as root.") from error
        if self._planned_kind(path) == "none":
            found = None
        if entry.state == "absent":
            return self._plan_absent(entry, found)
        step = Step(entry, path, found, Attributes())
        if found is not None and not entry.force:
            return step
        self._refuse_wrong_kind(entry, path, found)
        if found is None:
            self._require_parent(path)
        self._planned[path] = entry.state
        if entry.state == "link":
            self._plan_link(step)
        else:
            self._plan_content(step)
            self._plan_attributes(step)
        return step

    def _planned_kind(self, path: str) -> str | None:
        """Say what earlier entries make of a path: what was removed above it counts too."""
        if path in self._planned:
            return self._planned[path]
        return "none" if any(self._planned.get(parent) == "none" for parent in _parents(path)) else None

    def _require_parent(self, path: str) -> None:
        parent = str(Path(path).parent)
        planned = self._planned_kind(parent)
        if planned == "directory" or (planned is None and Path(parent).is_dir()):
            return
        if planned is None and os.path.lexists(parent):
            raise TreeError(f"{path} cannot be made: {parent} is not a directory.")
        raise TreeError(f"{path} cannot be made: {parent} does not exist; list it before as a directory.")

    def _refuse_wrong_kind(self, entry: Entry, path: str, found: Found | None) -> None:
        if found is None or found.kind == entry.state:
            return
        remedy = "move it away or choose another path"
        if found.kind == "link" and entry.state in ("file", "directory"):
            remedy = "remove it, or set follow: true to work on what it points to"
        raise TreeError(f"{path} is {_KIND_WORDS[found.kind]}, and {_KIND_WORDS[entry.state]} is wished: {remedy}.")

    def _plan_absent(self, entry: Entry, found: Found | None) -> Step:
        path = entry.path
        step = Step(entry, path, found, Attributes())
        if found is None:
            self._planned[path] = "none"
            return step
        if entry.target is not None and found.target != entry.target:
            return step
        if found.kind == "directory":
            if not entry.force and self._left_in(path):
                return step
            self._refuse_unsafe_removal(entry)
        self._planned[path] = "none"
        step.changes = ["removed"]
        step.before, step.after = [f"state: {found.kind}"], ["state: absent"]
        return step

    def _refuse_unsafe_removal(self, entry: Entry) -> None:
        path = entry.path
        for mount in _mount_points():
            if mount == path or mount.startswith(path + "/"):
                raise TreeError(f"{path} cannot be removed: {mount} is a mount point; unmount it first.")
        if entry.recurse:
            if path.count("/") < 2:
                raise TreeError(f"{path} lies directly below the root and is not removed with all that is in it.")
            return
        left = self._left_in(path)
        if left:
            raise TreeError(
                f"{path} is a directory with {len(left)} entries in it ({left[0]!r} first) and is not removed: "
                "empty it, or set recurse: true."
            )

    def _left_in(self, path: str) -> list[str]:
        """Return the names in a directory that no earlier entry removes."""
        return sorted(child.name for child in Path(path).iterdir() if self._planned_kind(str(child)) != "none")

    def _plan_link(self, step: Step) -> None:
        entry, found = step.entry, step.found
        step.wished = Attributes(uid=self._id("user", entry.owner), gid=self._id("group", entry.group))
        if found is None:
            step.changes.append("created")
            step.before.append("state: absent")
            step.after.append("state: link")
        if found is None or found.target != entry.target:
            if found is not None:
                step.changes.append("target")
                step.before.append(f"target: {found.target}")
            step.after.append(f"target: {entry.target}")
        self._compare(step)

    def _plan_content(self, step: Step) -> None:
        entry, found = step.entry, step.found
        if found is None:
            step.changes.append("created")
            step.before.append("state: absent")
            step.after.append(f"state: {entry.state}")
        elif entry.content is not None and entry.content != found.content:
            step.changes.append("content")
        if step.changes and entry.validate:
            self._validate(entry)

    def _validate(self, entry: Entry) -> None:
        """Ask the checker before anything is changed, with a copy in a private place, so in check mode as well."""
        with tempfile.TemporaryDirectory(prefix="gpufleet-validate-") as place:
            copy = str(Path(place, Path(entry.path).name))
            descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as stream:
                stream.write(entry.content or b"")
            command = [word.replace("%s", copy) for word in entry.validate]
            try:
                result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
            except FileNotFoundError as error:
                if self.check_mode:
                    return  # an earlier step of the real run brings the checker
                raise TreeError(f"{entry.path} cannot be checked: {command[0]} is not there; install it.") from error
            except (OSError, subprocess.TimeoutExpired) as error:
                raise TreeError(f"{entry.path} cannot be checked: {command[0]}: {error}.") from error
        if result.returncode == 0:
            return
        said = "" if entry.secret else (result.stderr or result.stdout).decode("utf-8", "replace").strip()
        raise TreeError(
            f"{entry.path}: {command[0]} refuses the new content (exit {result.returncode}), the file is left as it was"
            + (f": {said.replace(copy, entry.path)}" if said else ".")
        )

    def _plan_attributes(self, step: Step) -> None:
        entry, found = step.entry, step.found
        wished = Attributes(
            uid=self._id("user", entry.owner),
            gid=self._id("group", entry.group),
            access=self._acl(entry, "access_acl", step.path),
            default=self._acl(entry, "default_acl", step.path),
        )
        if entry.secret and wished.access is None:
            wished.access = []  # whoever an inherited ACL names shall not read it
        wished.mode = _wished_mode(entry, found, wished.access)
        if found is None:
            # Nothing that the parent's default ACL hands down unless it was asked for.
            wished.access = wished.access or []
            wished.default = wished.default or []
        step.wished = wished
        self._compare(step)

    def _compare(self, step: Step) -> None:
        """Note each attribute that differs, in words, for the changes and the diff."""
        entry, wished = step.entry, step.wished
        if step.found is None:
            stated = (("owner", entry.owner), ("group", entry.group), ("mode", _octal(wished.mode)))
            acls = (("access_acl", entry.access_acl), ("default_acl", entry.default_acl))
            step.after.extend(f"{name}: {value}" for name, value in stated + acls if value)
            self._refuse_foreign_owner(step, None)
            return
        found = step.found
        rows: list[tuple[str, Any, Any, str, str]] = [
            ("owner", wished.uid, found.status.st_uid, name_of("user", found.status.st_uid), entry.owner or ""),
            ("group", wished.gid, found.status.st_gid, name_of("group", found.status.st_gid), entry.group or ""),
        ]
        if found.kind != "link":
            mode = stat.S_IMODE(found.status.st_mode)
            now, access = effective_access(found), wished.access
            if access is not None and not access:
                access = now if not found.access else []
            rows += [
                ("mode", wished.mode, mode, _octal(mode), _octal(wished.mode)),
                ("access_acl", access, now, posix_acl.to_text(now, name_of), entry.access_acl or "none"),
                ("default_acl", wished.default, found.default, _text(found.default), entry.default_acl or "none"),
            ]
        for name, value, is_now, before, after in rows:
            if value is not None and value != is_now:
                step.changes.append(name)
                step.before.append(f"{name}: {before}")
                step.after.append(f"{name}: {after}")
        self._refuse_foreign_owner(step, found)

    def _refuse_foreign_owner(self, step: Step, found: Found | None) -> None:
        if found is not None and found.kind == "file" and found.status.st_nlink > 1 and "owner" in step.changes:
            raise TreeError(
                f"{step.path} has a second name (a hard link) and belongs to {name_of('user', found.status.st_uid)}: "
                "it is not given to somebody else; remove it."
            )
        if os.geteuid() == 0 or self.check_mode:
            return
        uid, gid = step.wished.uid, step.wished.gid
        if uid is not None and uid != (os.geteuid() if found is None else found.status.st_uid):
            raise TreeError(f"{step.path} cannot be given to user {step.entry.owner} by a plain user: run as root.")
        if (found is None or "group" in step.changes) and gid not in {None, os.getegid(), *os.getgroups()}:
            raise TreeError(f"{step.path} cannot be given to group {step.entry.group} by a plain user: run as root.")

    def _id(self, kind: str, name: str | None) -> int | None:
        if name is None:
            return None
        try:
            return id_of(kind, name)
        except KeyError:
            if self.check_mode:
                return _UNKNOWN_ID  # an earlier step of the real run makes it
            raise TreeError(f"there is no {kind} {name} on this host: create it first or name another.") from None

    def _acl(self, entry: Entry, option: str, path: str) -> Acl | None:
        text = getattr(entry, option)
        if text is None:
            return None

        def resolve(kind: str, name: str) -> int:
            found = self._id(kind, name)
            return _UNKNOWN_ID if found is None else found

        try:
            acl = posix_acl.parse(text, resolve)
        except posix_acl.AclError as error:
            raise TreeError(f'{path}: {option} "{text}" cannot be used: {error}.') from error
        if acl and not has_acls(path):
            place, kind = filesystem_of(path)
            raise TreeError(
                f"{path}: the filesystem mounted at {place} ({kind}) keeps no ACLs, and {option} needs them: "
                "mount one that does (ext4, XFS, Btrfs), or choose a path that lies on one."
            )
        return acl


def _wished_mode(entry: Entry, found: Found | None, access: Acl | None) -> int | None:
    """Bring mode and ACL together: with an ACL the group's bits that stat shows are the ACL's mask."""
    kept = stat.S_IMODE(found.status.st_mode) if found is not None else None
    acl_bits: int | None = posix_acl.to_mode(access) if access else None
    if entry.mode is None:
        if acl_bits is not None:
            return ((kept or 0) & 0o7000) | acl_bits
        if kept is not None:
            return None
        return 0o755 if entry.state == "directory" else 0o644
    mode = int(entry.mode, 8)
    if acl_bits is not None and mode & 0o777 != acl_bits:
        raise TreeError(
            f'{entry.path}: mode "{entry.mode}" and access_acl "{entry.access_acl}" contradict each other: with an ACL '
            "the group digit of the mode is the ACL's mask, so write mode "
            f'"{mode & 0o7000 | acl_bits:04o}" or leave it out.'
        )
    if len(entry.mode) == 3 and kept is not None:
        mode |= kept & 0o7000
    return mode


def _without_patterns(entries: list[Entry]) -> list[Entry]:
    """Put the paths that a pattern matches in its place, except those that other entries name."""
    named = {entry.path for entry in entries}
    plain: list[Entry] = []
    for entry in entries:
        if not entry.glob:
            plain.append(entry)
            continue
        directory, pattern = Path(entry.path).parent, Path(entry.path).name
        present = sorted(child.name for child in directory.iterdir()) if directory.is_dir() else []
        paths = [f"{directory}/{name}" for name in fnmatch.filter(present, pattern)]
        plain += [replace(entry, path=path, glob=False) for path in paths if path not in named]
    return plain


def _without_repetition(entries: list[Entry]) -> list[Entry]:
    """Drop an entry that stands twice, refuse one path with two wishes: each run would undo its own work."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        if entry.path in seen and seen[entry.path] != entry:
            raise TreeError(f"{entry.path} is listed twice with different wishes: keep one.")
        seen[entry.path] = entry
    return list(seen.values())


# Looking


def look(path: str, with_content: bool = False) -> Found | None:
    """Say what lies at path, or None; never follows a link at its end."""
    try:
        with open_parent(path) as (parent, name):
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return Found("link", status, target=os.readlink(name, dir_fd=parent))
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                return Found("other", status)
            with _opened(name, parent) as descriptor:
                return _look_inside(descriptor, with_content)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _look_inside(descriptor: int, with_content: bool) -> Found:
    status = os.fstat(descriptor)
    access = _get_acl(descriptor, posix_acl.ACCESS)
    if stat.S_ISDIR(status.st_mode):
        return Found("directory", status, access, _get_acl(descriptor, posix_acl.DEFAULT))
    content = None
    if with_content:
        with open(os.dup(descriptor), "rb") as stream:
            content = stream.read()
    return Found("file", status, access, content=content)


def effective_access(found: Found) -> Acl:
    """Give the ACL that is in force; without one it is the mode."""
    return found.access or posix_acl.from_mode(found.status.st_mode)


@contextlib.contextmanager
def open_parent(path: str) -> Iterator[tuple[int, str]]:
    """Open the directory that holds path; yields its descriptor and path's last component.

    A link on the way is followed only if nobody else can use it to lead us to what is not theirs: root or we ourselves
    put it there, or it leads to a directory of the user who did.
    """
    parts = path.strip("/").split("/")
    descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        for depth, part in enumerate(parts[:-1]):
            status = os.stat(part, dir_fd=descriptor, follow_symlinks=False)
            link = stat.S_ISLNK(status.st_mode)
            flags = os.O_PATH | os.O_DIRECTORY | (0 if link else os.O_NOFOLLOW)
            following = os.open(part, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = following
            if link and status.st_uid not in (0, os.geteuid(), os.fstat(descriptor).st_uid):
                raise TreeError(
                    f"{path} is not touched: /{'/'.join(parts[: depth + 1])} is a symbolic link of "
                    f"{name_of('user', status.st_uid)} to a directory of somebody else; "
                    "make it a directory, or give the path behind it."
                )
        yield descriptor, parts[-1]
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(name: str, parent: int) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _get_acl(target: int | str, name: str) -> Acl:
    try:
        return posix_acl.decode(os.getxattr(target, name))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return []
        raise


def has_acls(path: str) -> bool:
    """Say whether the filesystem of path, or of its nearest existing ancestor, keeps POSIX ACLs."""
    for place in [path, *_parents(path)]:
        try:
            os.getxattr(place, posix_acl.ACCESS)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return error.errno != errno.EOPNOTSUPP
        return True
    return False


def filesystem_of(path: str) -> tuple[str, str]:
    """Give the mount point that path lies on and the kind of its filesystem."""
    real = os.path.realpath(path)
    best = ("/", "unknown")
    for place, kind in _mounts():
        if (real == place or real.startswith(place.rstrip("/") + "/")) and len(place) >= len(best[0]):
            best = (place, kind)
    return best


def _mounts() -> list[tuple[str, str]]:
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    pairs = []
    for line in lines:
        place = line.split()[4]
        kind = line.partition(" - ")[2].split()[0]
        pairs.append((re.sub(r"\\(\d{3})", lambda match: chr(int(match.group(1), 8)), place), kind))
    return pairs


def _mount_points() -> list[str]:
    return [place for place, _ in _mounts()]


def _parents(path: str) -> list[str]:
    return [str(parent) for parent in Path(path).parents]


def id_of(kind: str, name: str) -> int:
    """Give the id of a user or group by name or number; raises KeyError where there is none."""
    if name.isdigit():
        return int(name)
    return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid


def name_of(kind: str, ident: int) -> str:
    """Give the name for an id, or the number where nobody has it."""
    try:
        return pwd.getpwuid(ident).pw_name if kind == "user" else grp.getgrgid(ident).gr_name
    except KeyError:
        return str(ident)


def _octal(mode: int | None) -> str:
    return "" if mode is None else f"{mode:04o}"


def _text(acl: Acl) -> str:
    return posix_acl.to_text(acl, name_of) if acl else "none"


# Changing


def _mark(path: str) -> None:
    """Remember, before the first change, that what follows from it has still to be done."""
    try:
        for parent in reversed(Path(path).parents):
            if not parent.is_dir():
                parent.mkdir()
                parent.chmod(0o755)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644))
    except OSError as error:
        raise TreeError(f"the mark {path} cannot be made: {error.strerror or error}; nothing was changed.") from error


def _apply_directory(step: Step) -> None:
    with open_parent(step.path) as (parent, name):
        if step.found is None and not step.marked:
            os.mkdir(name, 0o700, dir_fd=parent)
        with _opened(name, parent) as descriptor:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise TreeError(f"{step.path} was replaced while we worked: look at who does that.")
            _set_attributes(descriptor, step.wished, step.path)


def _apply_file(step: Step) -> None:
    with open_parent(step.path) as (parent, name):
        if step.found is None or "content" in step.changes:
            _replace_file(step, parent, name)
            return
        with _opened(name, parent) as descriptor:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise TreeError(f"{step.path} was replaced while we worked: look at who does that.")
            _set_attributes(descriptor, step.wished, step.path)


def _replace_file(step: Step, parent: int, name: str) -> None:
    """Write beside the file and rename: a reader sees the old content or the new, with the right owner and mode."""
    _remove_leftovers(parent, name)
    temporary = _temporary_name(name)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(step.entry.content or b"")
            stream.flush()
            _set_attributes(descriptor, _complete(step), step.path)
            if step.found is not None:
                _copy_label(step.path, descriptor)
            os.fsync(descriptor)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent)
        raise
    _sync_directory(parent)


def _complete(step: Step) -> Attributes:
    """What the wish leaves open comes from the file that is replaced."""
    wished, found = step.wished, step.found
    if found is None:
        return wished
    return Attributes(
        uid=found.status.st_uid if wished.uid is None else wished.uid,
        gid=found.status.st_gid if wished.gid is None else wished.gid,
        mode=stat.S_IMODE(found.status.st_mode) if wished.mode is None else wished.mode,
        access=found.access if wished.access is None else wished.access,
    )


def _copy_label(path: str, descriptor: int) -> None:
    # Most hosts have no SELinux, and a policy may forbid it; the directory's default label is then right.
    with contextlib.suppress(OSError):
        os.setxattr(descriptor, _SELINUX, os.getxattr(path, _SELINUX, follow_symlinks=False))


def _set_attributes(descriptor: int, wished: Attributes, path: str) -> None:
    """Owner first, because a change of owner drops setuid and setgid; mode last, because an ACL changes it."""
    status = os.fstat(descriptor)
    uid = -1 if wished.uid is None or wished.uid == status.st_uid else wished.uid
    gid = -1 if wished.gid is None or wished.gid == status.st_gid else wished.gid
    mode = stat.S_IMODE(status.st_mode) if wished.mode is None else wished.mode
    if uid != -1 or gid != -1:
        os.fchown(descriptor, uid, gid)
    if wished.access is not None:
        _set_acl(descriptor, posix_acl.ACCESS, wished.access)
    if wished.default is not None and stat.S_ISDIR(status.st_mode):
        _set_acl(descriptor, posix_acl.DEFAULT, wished.default)
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
        os.fchmod(descriptor, mode)
    now = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if now != mode:
        place, kind = filesystem_of(path)
        raise TreeError(
            f"{path} has mode {now:04o} after it was set to {mode:04o}: the filesystem mounted at {place} ({kind}), "
            "or a plain user's rights, do not allow it; choose another path or run as root."
        )


def _set_acl(descriptor: int, name: str, acl: Acl) -> None:
    if _get_acl(descriptor, name) == acl:
        return
    if acl:
        os.setxattr(descriptor, name, posix_acl.encode(acl))
    else:
        os.removexattr(descriptor, name)


def _apply_link(step: Step) -> None:
    with open_parent(step.path) as (parent, name):
        if step.found is None or "target" in step.changes:
            temporary = _temporary_name(name)
            os.symlink(step.entry.target or "", temporary, dir_fd=parent)
            try:
                os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                os.unlink(temporary, dir_fd=parent)
                raise
        uid = -1 if step.wished.uid is None else step.wished.uid
        gid = -1 if step.wished.gid is None else step.wished.gid
        if uid != -1 or gid != -1:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)


def _apply_absent(step: Step) -> None:
    with open_parent(step.path) as (parent, name):
        if step.found is not None and step.found.kind == "directory":
            if step.entry.recurse:
                _remove_tree(name, parent)
            else:
                os.rmdir(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)


def _remove_tree(name: str, parent: int) -> None:
    """Like shutil.rmtree, which can start from a descriptor only since Python 3.11."""
    with _opened(name, parent) as descriptor:
        for child in os.listdir(descriptor):  # noqa: PTH208  # pathlib knows no descriptors
            if stat.S_ISDIR(os.stat(child, dir_fd=descriptor, follow_symlinks=False).st_mode):
                _remove_tree(child, descriptor)
            else:
                os.unlink(child, dir_fd=descriptor)
    os.rmdir(name, dir_fd=parent)


# No write takes so long.
_LEFTOVER_S = 600


def _temporary_name(name: str) -> str:
    # 255 bytes is the longest name that filesystems take.
    return f".{name[:200]}.gpufleet-{secrets.token_hex(6)}"


def _remove_leftovers(parent: int, name: str) -> None:
    """Remove what runs left that were killed while they wrote this file; a young one may be another run's work."""
    pattern = re.compile(re.escape(_temporary_name(name)[:-12]) + "[0-9a-f]{12}")
    with contextlib.suppress(OSError), _opened(".", parent) as folder:
        for other in filter(pattern.fullmatch, os.listdir(folder)):  # noqa: PTH208  # pathlib knows no descriptors
            status = os.stat(other, dir_fd=parent, follow_symlinks=False)
            if time.time() - status.st_mtime > _LEFTOVER_S and stat.S_ISREG(status.st_mode):
                os.unlink(other, dir_fd=parent)


def _sync_directory(parent: int) -> None:
    # A plain user may write to a directory that it cannot read, and some filesystems refuse; the rename stands anyway.
    with contextlib.suppress(OSError):
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_APPLY = {"directory": _apply_directory, "file": _apply_file, "link": _apply_link, "absent": _apply_absent}


# Telling


def diff_of(step: Step) -> list[dict[str, str]]:
    """Give Ansible's diff for one step: its attributes, and the content where it changes and is no secret."""
    pieces = []
    if step.before or step.after:
        before, after = "".join(f"{line}\n" for line in step.before), "".join(f"{line}\n" for line in step.after)
        header = f"{step.path} (attributes)"
        pieces.append({"before_header": header, "after_header": header, "before": before, "after": after})
    if step.entry.state == "file" and ("content" in step.changes or (step.found is None and step.entry.content)):
        old = step.found.content if step.found is not None else None
        before, after = _shown(old), _shown(step.entry.content)
        if step.entry.secret:
            before, after = ("(secret)\n" if old is not None else ""), "(secret, new content)\n"
        pieces.append({"before_header": step.path, "after_header": step.path, "before": before, "after": after})
    return pieces


def _shown(content: bytes | None) -> str:
    if content is None:
        return ""
    if len(content) > _DIFF_BYTES:
        return f"({len(content)} bytes)\n"
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return f"(binary, {len(content)} bytes)\n"
