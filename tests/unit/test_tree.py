"""The tree module on real files: what it makes, what it refuses, what it leaves when it is cut off."""

from __future__ import annotations

import ast
import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils import posix_acl
from ansible_collections.gpufleet.host.plugins.module_utils import tree as tree_module
from ansible_collections.gpufleet.host.plugins.module_utils.tree import Tree, TreeError, diff_of, parse_entry

ROOT = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and mounts are root's to change")

SHARED = "u::rwx,g::rwx,g:users:rwx,m::rwx,o::r-x"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory whose filesystem keeps ACLs, with a umask that would spoil every mode."""
    old = os.umask(0o077)
    yield tmp_path
    os.umask(old)


def needs_acls(place: Path) -> None:
    if not tree_module.has_acls(str(place)):
        pytest.skip("the temporary directory's filesystem keeps no ACLs")


def run(*entries: dict[str, Any], check: bool = False) -> list[tuple[str, str]]:
    """Do what the module's main does, and give (last component of the path, change)."""
    tree = Tree([parse_entry(entry) for entry in entries], check)
    if not check:
        tree.apply()
    return [(Path(step.path).name, change) for step in tree.steps for change in step.changes]


def diffs(*entries: dict[str, Any]) -> str:
    pieces = [piece for step in Tree([parse_entry(e) for e in entries], True).steps for piece in diff_of(step)]
    return "\n".join(f"{p['before_header']}\n--- {p['before']}+++ {p['after']}" for p in pieces)


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.lstat().st_mode):04o}"


def snapshot(place: Path) -> list[tuple[str, int, int, int, int]]:
    found = []
    for path in sorted([place, *place.rglob("*")]):
        status = path.lstat()
        found.append((str(path), status.st_mode, status.st_uid, status.st_mtime_ns, status.st_ino))
    return found


# ACL text and bytes


def resolve(kind: str, name: str) -> int:
    return {("group", "ml"): 2000, ("group", "zz"): 3000, ("user", "al"): 1000}[kind, name]


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("u::rwx,g::rwx,g:ml:rwx,m::rwx,o::r-x", None),
        ("u::rwx,g::r-x,o::---", None),
        ("u::rw-,u:al:r--,g::r--,g:ml:rw-,g:zz:r--,m::rw-,o::---", None),
        ("o::r-x,g:zz:r-x,m::rwx,g:ml:rwx,g::rwx,u::rwx", "u::rwx,g::rwx,g:ml:rwx,g:zz:r-x,m::rwx,o::r-x"),
        ("u::rwx,g::r-x,g:ml:-w-,o::---", "u::rwx,g::r-x,g:ml:-w-,m::rwx,o::---"),
        (
            "# owner: root\nuser::rwx\ngroup::r-x #effective:r--\ngroup:ml:rwx\nmask::r--\nother::---\n",
            "u::rwx,g::r-x,g:ml:rwx,m::r--,o::---",
        ),
        ("", ""),
    ],
)
def test_acl_text(text: str, again: str | None) -> None:
    acl = posix_acl.parse(text, resolve)
    names = {1000: "al", 2000: "ml", 3000: "zz"}
    assert posix_acl.to_text(acl, lambda _, ident: names[ident]) == (text if again is None else again)
    if acl:
        assert posix_acl.decode(posix_acl.encode(acl)) == acl


def test_acl_bytes_are_the_kernels() -> None:
    acl = posix_acl.parse("u::rwx,g::r-x,g:ml:rwx,m::rwx,o::r-x", resolve)
    assert posix_acl.encode(acl).hex() == (
        "0200000001000700ffffffff04000500ffffffff08000700d007000010000700ffffffff20000500ffffffff"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("g::rwx,o::r-x", '"u::" is missing'),
        ("u::rwx,g::rwx", '"o::" is missing'),
        ("u::rwx,g::rwX,o::r-x", "permissions such as"),
        ("u::rwx,g::,o::r-x", "permissions such as"),
        ("u::rwx,g:rwx,o::r-x", "not of the form"),
        ("d:u::rwx,g::rwx,o::r-x", "not of the form"),
        ("u::rwx,g::rwx,g::rwx,o::r-x", "there twice"),
        ("u::rwx,g::rwx,m:ml:rwx,o::r-x", "nobody can be named"),
    ],
)
def test_acl_text_refused(text: str, complaint: str) -> None:
    with pytest.raises(posix_acl.AclError, match=complaint):
        posix_acl.parse(text, resolve)


# What is made


def test_all_kinds_then_nothing(place: Path) -> None:
    wishes: list[dict[str, Any]] = [
        {"path": f"{place}/a", "state": "directory", "mode": "2775"},
        {"path": f"{place}/a/b", "state": "directory"},
        {"path": f"{place}/a/b/f", "state": "file", "content": "x = 1\n", "mode": "0640"},
        {"path": f"{place}/a/empty", "state": "file"},
        {"path": f"{place}/a/l", "state": "link", "target": "b/f"},
        {"path": f"{place}/gone", "state": "absent"},
    ]
    assert run(*wishes) == [(name, "created") for name in ("a", "b", "f", "empty")] + [("l", "created")]
    assert (place / "a/l").read_text() == "x = 1\n"
    assert [mode(place / p) for p in ("a", "a/b", "a/b/f", "a/empty")] == ["2775", "0755", "0640", "0644"]
    before = snapshot(place)
    assert run(*wishes) == []
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("now", "wish", "change", "then"),
    [
        ("0644", "0600", ["mode"], "0600"),
        ("2770", "0750", ["mode"], "0750"),
        ("2770", "750", ["mode"], "2750"),
        ("2770", "770", [], "2770"),
        ("2770", None, [], "2770"),
    ],
)
def test_modes_of_directories(place: Path, now: str, wish: str | None, change: list[str], then: str) -> None:
    directory = place / "d"
    directory.mkdir()
    directory.chmod(int(now, 8))
    assert run({"path": str(directory), "state": "directory", "mode": wish}) == [("d", name) for name in change]
    assert mode(directory) == then


def test_equal_content_is_not_written_again(place: Path) -> None:
    file = place / "f"
    file.write_bytes(b"caf\xc3\xa9\n")
    inode = file.stat().st_ino
    assert run({"path": str(file), "state": "file", "content": "café\n", "mode": "0640"}) == [("f", "mode")]
    assert (file.stat().st_ino, mode(file)) == (inode, "0640")


def test_new_content_keeps_what_is_not_wished(place: Path) -> None:
    file = place / "f"
    file.write_text("old")
    file.chmod(0o604)
    assert run({"path": str(file), "state": "file", "content": "new"}) == [("f", "content")]
    assert (file.read_text(), mode(file)) == ("new", "0604")


def test_force_false_makes_once(place: Path) -> None:
    wish = {"path": f"{place}/f", "state": "file", "content": "ours", "mode": "0600", "force": False}
    assert run(wish) == [("f", "created")]
    (place / "f").write_text("theirs")
    (place / "f").chmod(0o644)
    assert run(wish) == []
    assert ((place / "f").read_text(), mode(place / "f")) == ("theirs", "0644")


def test_link_is_turned(place: Path) -> None:
    (place / "l").symlink_to("one")
    assert run({"path": f"{place}/l", "state": "link", "target": "two"}) == [("l", "target")]
    assert os.readlink(place / "l") == "two"  # noqa: PTH115
    assert [p.name for p in place.iterdir()] == ["l"]


def test_follow(place: Path) -> None:
    (place / "real").write_text("old")
    (place / "l").symlink_to("real")
    wish = {"path": f"{place}/l", "state": "file", "content": "new"}
    with pytest.raises(TreeError, match="is a symbolic link, and a file is wished: remove it, or set follow"):
        run(wish)
    assert run({**wish, "follow": True}) == [("real", "content")]
    assert (place / "l").is_symlink()
    assert (place / "real").read_text() == "new"


def test_absent(place: Path) -> None:
    (place / "d/e").mkdir(parents=True)
    (place / "d/f").write_text("")
    (place / "d/l").symlink_to("/etc")
    with pytest.raises(TreeError, match=r"3 entries in it \('e' first\) and is not removed"):
        run({"path": f"{place}/d", "state": "absent"})
    wishes = [{"path": f"{place}/d/{name}", "state": "absent"} for name in ("e", "f", "l")]
    wishes.append({"path": f"{place}/d", "state": "absent"})
    assert run(*wishes, check=True) == run(*wishes) == [(name, "removed") for name in ("e", "f", "l", "d")]
    assert run(*wishes) == []
    assert not (place / "d").exists()


def test_absent_without_force_removes_what_is_empty(place: Path) -> None:
    (place / "d/e").mkdir(parents=True)
    (place / "full").mkdir()
    (place / "full/f").write_text("")
    wishes = [{"path": f"{place}/{name}", "state": "absent", "force": False} for name in ("d/e", "d", "full", "none")]
    assert run(*wishes, check=True) == run(*wishes) == [("e", "removed"), ("d", "removed")]
    assert (place / "full/f").exists()
    assert run({"path": f"{place}/full/f", "state": "absent"}, wishes[2]) == [("f", "removed"), ("full", "removed")]


def test_absent_recurse_does_not_follow(place: Path) -> None:
    (place / "keep").mkdir()
    (place / "keep/f").write_text("")
    (place / "d/e").mkdir(parents=True)
    (place / "d/e/l").symlink_to(place / "keep")
    assert run({"path": f"{place}/d", "state": "absent", "recurse": True}) == [("d", "removed")]
    assert (place / "keep/f").exists()


@pytest.mark.parametrize("kind", ["directory", "link elsewhere", "link there", "none"])
def test_absent_with_a_target_removes_that_link_only(place: Path, kind: str) -> None:
    path = place / "l"
    if kind == "directory":
        (path / "full").mkdir(parents=True)
    elif kind != "none":
        path.symlink_to("there" if kind == "link there" else "elsewhere")
    expected = [("l", "removed")] if kind == "link there" else []
    assert run({"path": str(path), "state": "absent", "target": "there"}) == expected


def test_glob_spares_what_others_name(place: Path) -> None:
    for name in ("ours-1", "ours-2", "ours-3", "theirs"):
        (place / name).write_text(name)
    pattern = {"path": f"{place}/ours-*", "state": "absent", "glob": True}
    kept = {"path": f"{place}/ours-2", "state": "file", "content": "ours-2"}
    assert run(pattern, kept) == [("ours-1", "removed"), ("ours-3", "removed")]
    assert sorted(p.name for p in place.iterdir()) == ["ours-2", "theirs"]
    assert run(pattern, kept) == []
    assert run({"path": f"{place}/no/such/ours-*", "state": "absent", "glob": True}) == []


# Check mode and the diff


def test_check_mode_on_a_bare_host_leaves_no_trace(place: Path) -> None:
    (place / "old").write_text("1\n")
    needs_acls(place)
    wishes: list[dict[str, Any]] = [
        {"path": f"{place}/a", "state": "directory", "owner": "nobody-yet", "group": "none-yet", "mode": "2770"},
        {"path": f"{place}/a/b", "state": "directory", "access_acl": "u::rwx,g::rwx,g:none-yet:rwx,o::---"},
        {"path": f"{place}/a/b/f", "state": "file", "content": "x", "validate": ["/no/such/checker", "%s"]},
        {"path": f"{place}/old", "state": "file", "content": "2\n", "owner": "nobody-yet"},
    ]
    before = snapshot(place)
    assert run(*wishes, check=True) == [
        ("a", "created"),
        ("b", "created"),
        ("f", "created"),
        ("old", "content"),
        ("old", "owner"),
    ]
    assert snapshot(place) == before
    with pytest.raises(TreeError, match="there is no user nobody-yet on this host"):
        run(*wishes)
    assert snapshot(place) == before


def test_diff(place: Path) -> None:
    (place / "f").write_text("one\n")
    (place / "f").chmod(0o600)
    text = diffs(
        {"path": f"{place}/f", "state": "file", "content": "two\n", "mode": "0644"},
        {"path": f"{place}/n", "state": "directory", "mode": "0750"},
        {"path": f"{place}/same", "state": "absent"},
    )
    assert f"{place}/f\n--- one\n+++ two\n" in text
    assert "--- mode: 0600\n+++ mode: 0644\n" in text
    assert "--- state: absent\n+++ state: directory\nmode: 0750\n" in text
    assert "same" not in text


def test_diff_of_a_secret(place: Path) -> None:
    (place / "old").write_text("hush-1")
    wishes = [
        {"path": f"{place}/{name}", "state": "file", "content": "hush-2", "secret": True} for name in ("old", "new")
    ]
    text = diffs(*wishes)
    assert "hush" not in text
    assert text.count("(secret, new content)") == 2


@pytest.mark.parametrize(
    ("content", "shown"), [(b"\xff\xfe\x00", "(binary, 3 bytes)\n"), (b"x" * 300000, "(300000 bytes)\n")]
)
def test_diff_of_what_cannot_be_shown(place: Path, content: bytes, shown: str) -> None:
    (place / "f").write_bytes(content)
    assert f"--- {shown}" in diffs({"path": f"{place}/f", "state": "file", "content": "text\n"})


# What is refused, before anything is changed


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ({"path": "rel", "state": "file"}, "not absolute and plain"),
        ({"path": "/a/../b", "state": "file"}, "not absolute and plain"),
        ({"path": "//", "state": "directory"}, "root of the filesystem"),
        ({"path": "/x", "state": "file", "mode": 420}, "mode 420 is not a quoted octal number"),
        ({"path": "/x", "state": "file", "mode": "u+x"}, "not a quoted octal number"),
        ({"path": "/x", "state": "file", "mode": "0899"}, "not a quoted octal number"),
        ({"path": "/x", "state": "file", "content": {"a": 1}}, "content is of type dict"),
        ({"path": "/x", "state": "directory", "content": "x"}, "content means nothing for state directory"),
        ({"path": "/x", "state": "file", "default_acl": SHARED}, "default_acl means nothing for state file"),
        ({"path": "/x", "state": "absent", "mode": "0644"}, "mode means nothing for state absent"),
        ({"path": "/x", "state": "link"}, "needs a target"),
        ({"path": "/x", "state": "file", "content": "", "validate": ["true"]}, "validate has no %s"),
        ({"path": "/x", "state": "file", "recurse": True}, "recurse means nothing"),
    ],
)
def test_entries_refused(wish: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TreeError, match=complaint):
        parse_entry(wish)


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ({"path": "{}/f", "state": "directory"}, "is a file, and a directory is wished: move it away"),
        ({"path": "{}/d", "state": "file"}, "is a directory, and a file is wished"),
        ({"path": "{}/d", "state": "link", "target": "x"}, "is a directory, and a symbolic link is wished"),
        ({"path": "{}/pipe", "state": "file", "content": ""}, "is a special file, and a file is wished"),
        ({"path": "{}/l", "state": "directory"}, "is a symbolic link, and a directory is wished"),
        ({"path": "{}/no/x", "state": "file"}, "no does not exist; list it before"),
        ({"path": "{}/f/x", "state": "file"}, "f is not a directory"),
        ({"path": "{}/x", "state": "file", "owner": "no-such-user"}, "there is no user no-such-user"),
        ({"path": "{}/x", "state": "file", "group": "no-such-group"}, "there is no group no-such-group"),
        ({"path": "{}/x", "state": "directory", "default_acl": "u::rwx"}, 'default_acl "u::rwx" cannot be used'),
        (
            {"path": "{}/x", "state": "directory", "mode": "2755", "access_acl": SHARED},
            'contradict each other: .* so write mode "2775" or leave it out',
        ),
        ({"path": "{}/new", "state": "file", "mode": "0600"}, "is listed twice"),
    ],
)
def test_refusals_change_nothing(place: Path, wish: dict[str, Any], complaint: str) -> None:
    (place / "f").write_text("")
    (place / "d").mkdir()
    (place / "l").symlink_to("d")
    os.mkfifo(place / "pipe")
    before = snapshot(place)
    first = {"path": f"{place}/new", "state": "file", "content": "made before"}
    with pytest.raises(TreeError, match=complaint):
        run(first, {**wish, "path": wish["path"].format(place)})
    assert snapshot(place) == before


def test_same_wish_twice_is_one(place: Path) -> None:
    wish = {"path": f"{place}/d", "state": "directory"}
    assert run(wish, dict(wish)) == [("d", "created")]


def test_removed_directory_is_no_parent(place: Path) -> None:
    (place / "d").mkdir()
    with pytest.raises(TreeError, match="d does not exist; list it before"):
        run({"path": f"{place}/d", "state": "absent"}, {"path": f"{place}/d/f", "state": "file"})


def test_recurse_spares_what_lies_below_the_root() -> None:
    with pytest.raises(TreeError, match=r"(lies directly below the root|is a mount point)"):
        run({"path": "/etc", "state": "absent", "recurse": True}, check=True)


@needs_root
def test_link_of_a_user_on_the_way(place: Path) -> None:
    """Followed to the user's own directory, not to somebody else's: the user could have it point anywhere."""
    nobody = pwd.getpwnam("nobody").pw_uid
    (place / "target").mkdir()
    (place / "config").symlink_to("target")
    wish = {"path": f"{place}/config/token", "state": "file", "content": "x"}
    os.lchown(place / "config", nobody, -1)
    with pytest.raises(TreeError, match="config is a symbolic link of nobody to a directory of somebody else"):
        run(wish)
    assert list((place / "target").iterdir()) == []
    os.chown(place / "target", nobody, -1)
    assert run({"path": f"{place}/config", "state": "directory", "force": False}, wish) == [("token", "created")]


@needs_root
def test_hard_link_is_not_given_away(place: Path) -> None:
    (place / "shadow").write_text("root's")
    os.link(place / "shadow", place / "mine")
    with pytest.raises(TreeError, match=r"second name \(a hard link\) and belongs to root"):
        run({"path": f"{place}/mine", "state": "file", "owner": "nobody"})


@needs_root
def test_owner_and_setgid(place: Path) -> None:
    wish = {"path": f"{place}/d", "state": "directory", "owner": "nobody", "group": "users", "mode": "2750"}
    run(wish)
    status = (place / "d").stat()
    assert (pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid).gr_name) == ("nobody", "users")
    assert mode(place / "d") == "2750"
    os.chown(place / "d", 0, 0)
    (place / "d").chmod(0o2750)
    assert run(wish) == [("d", "owner"), ("d", "group")]
    assert mode(place / "d") == "2750"
    assert run(wish) == []


def test_validate(place: Path) -> None:
    (place / "f").write_text('{"a": 1}')
    check = [sys.executable, "-c", "import json, sys; json.load(open(sys.argv[1]))", "%s"]
    before = snapshot(place)
    for mode_of_run in (True, False):
        with pytest.raises(TreeError, match=r"refuses the new content \(exit 1\)[\s\S]*Expecting property name"):
            run({"path": f"{place}/f", "state": "file", "content": "{a", "validate": check}, check=mode_of_run)
    with pytest.raises(TreeError) as refused:
        run({"path": f"{place}/f", "state": "file", "content": "{a", "validate": check, "secret": True})
    assert "Expecting" not in str(refused.value)
    with pytest.raises(TreeError, match="/no/such is not there; install it"):
        run({"path": f"{place}/f", "state": "file", "content": "x", "validate": ["/no/such", "%s"]})
    assert snapshot(place) == before
    assert run({"path": f"{place}/f", "state": "file", "content": "{}", "validate": check}) == [("f", "content")]


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_cut_off_before_the_rename(place: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    (place / "f").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        tree = Tree(
            [
                parse_entry({"path": f"{place}/d", "state": "directory"}),
                parse_entry({"path": f"{place}/f", "state": "file", "content": "new"}),
            ]
        )
        with pytest.raises(TreeError, match="f: No space left on device while it was being made true"):
            tree.apply()
    assert [step.path for step in tree.done] == [f"{place}/d"]
    assert sorted(p.name for p in place.iterdir()) == ["d", "f"]
    assert (place / "f").read_text() == "old"


def test_nobody_sees_a_half_made_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of the rename the new file has its content, mode and owner already."""
    seen: list[tuple[str, str]] = []
    rename = os.rename

    def spy(source: str, target: str, **where: Any) -> None:
        path = next(place.glob(".f.gpufleet-*"))
        seen.append((path.read_text(), mode(path)))
        rename(source, target, **where)

    monkeypatch.setattr(os, "rename", spy)
    run({"path": f"{place}/f", "state": "file", "content": "whole", "mode": "0444"})
    assert seen == [("whole", "0444")]


# ACLs on the disk


def getfacl(path: Path) -> list[str]:
    if shutil.which("getfacl") is None:
        pytest.skip("getfacl is not installed")
    result = subprocess.run(["getfacl", "-cpE", str(path)], capture_output=True, text=True, check=True)
    return sorted(line.strip() for line in result.stdout.splitlines() if line.strip())


def test_acls_as_getfacl_reads_them(place: Path) -> None:
    needs_acls(place)
    wish = {"path": f"{place}/d", "state": "directory", "mode": "2775", "access_acl": SHARED, "default_acl": SHARED}
    assert run(wish) == [("d", "created")]
    assert run(wish) == []
    access = ["group::rwx", "group:users:rwx", "mask::rwx", "other::r-x", "user::rwx"]
    assert getfacl(place / "d") == sorted(access + [f"default:{line}" for line in access])
    assert mode(place / "d") == "2775"
    (place / "d/f").write_text("")  # umask 077, and yet
    assert mode(place / "d/f") == "0664"


def test_acls_of_setfacl_are_read(place: Path) -> None:
    needs_acls(place)
    if shutil.which("setfacl") is None:
        pytest.skip("setfacl is not installed")
    (place / "d").mkdir(mode=0o755)
    subprocess.run(["setfacl", "-m", f"{SHARED},d:g:users:r-x", str(place / "d")], check=True)
    wish = {
        "path": f"{place}/d",
        "state": "directory",
        "access_acl": SHARED,
        "default_acl": "u::rwx,g::---,g:users:r-x,o::---",
    }
    assert [change for _, change in run(wish, check=True)] == ["default_acl"]
    wish["default_acl"] = posix_acl.to_text(tree_module.look(f"{place}/d").default, tree_module.name_of)
    assert run(wish) == []


@pytest.mark.parametrize(
    ("wish", "change"),
    [
        ({}, []),
        ({"mode": "2775"}, []),
        ({"mode": "2755"}, ["mode"]),
        ({"access_acl": "", "mode": "2775"}, ["access_acl"]),
        ({"access_acl": "u::rwx,g::r-x,o::r-x"}, ["mode", "access_acl"]),
        ({"default_acl": ""}, ["default_acl"]),
        ({"access_acl": "u::rwx,g::rwx,g:users:r-x,m::rwx,o::r-x"}, ["access_acl"]),
    ],
)
def test_mode_and_acl_do_not_fight(place: Path, wish: dict[str, Any], change: list[str]) -> None:
    needs_acls(place)
    base = {"path": f"{place}/d", "state": "directory"}
    run({**base, "mode": "2775", "access_acl": SHARED, "default_acl": SHARED})
    assert [name for _, name in run({**base, **wish})] == change
    assert run({**base, **wish}) == []


def test_inherited_acls_do_not_leak(place: Path) -> None:
    """New things have no ACL unless it was asked for, and a secret loses the one it has."""
    needs_acls(place)
    run({"path": f"{place}/d", "state": "directory", "access_acl": SHARED, "default_acl": SHARED})
    secret = {"path": f"{place}/d/token", "state": "file", "content": "x", "mode": "0600", "secret": True}
    run({"path": f"{place}/d/private", "state": "directory", "mode": "0700"}, secret)
    assert getfacl(place / "d/private") == ["group::---", "other::---", "user::rwx"]
    assert getfacl(place / "d/token") == ["group::---", "other::---", "user::rw-"]
    subprocess.run(["setfacl", "-m", "g:users:r", f"{place}/d/token"], check=True)
    assert ("token", "access_acl") in run(secret)
    assert getfacl(place / "d/token") == ["group::---", "other::---", "user::rw-"]


def test_new_content_keeps_the_acl(place: Path) -> None:
    needs_acls(place)
    file = {"path": f"{place}/f", "state": "file", "content": "1"}
    run({**file, "access_acl": "u::rw-,g::r--,g:users:rw-,o::---"})
    before = getfacl(place / "f")
    assert run({**file, "content": "2"}) == [("f", "content")]
    assert getfacl(place / "f") == before
    assert "group:users:rw-" in before


@needs_root
def test_filesystem_without_acls(place: Path) -> None:
    mount = place / "ramfs"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "ramfs", "none", str(mount)], capture_output=True, check=False).returncode:
        pytest.skip("no right to mount here")
    try:
        plain = {"path": f"{mount}/d", "state": "directory", "mode": "2775"}
        with pytest.raises(TreeError, match=rf"mounted at {mount} \(ramfs\) keeps no ACLs, and default_acl needs them"):
            run(plain, {"path": f"{mount}/d/e", "state": "directory", "default_acl": SHARED})
        assert list(mount.iterdir()) == []
        assert run(plain) == [("d", "created")]
        with pytest.raises(TreeError, match="ramfs is a mount point; unmount it first"):
            run({"path": str(place), "state": "absent", "recurse": True})
    finally:
        subprocess.run(["umount", str(mount)], check=True)


# The module itself


def module(entries: list[dict[str, Any]], pending: str | None = None, **internal: Any) -> dict[str, Any]:
    """Run the module as a program, as a host does."""
    arguments: dict[str, Any] = {"entries": entries, "pending": pending}
    arguments.update({f"_ansible_{name}": value for name, value in internal.items()})
    program = "from ansible_collections.gpufleet.host.plugins.modules.tree import main; main()"
    collected = os.pathsep.join([str(ROOT / "collections"), *(p for p in sys.path if p.endswith("site-packages"))])
    result = subprocess.run(
        [sys.executable, "-c", "import ansible.module_utils.basic as b; b._ANSIBLE_PROFILE='legacy'; " + program],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": collected},
    )
    answer: dict[str, Any] = json.loads(result.stdout or json.dumps({"broken": result.stderr}))
    return answer


def test_module_tells(place: Path) -> None:
    wishes = [{"path": f"{place}/f", "state": "file", "content": "hush", "mode": "0600", "secret": True}]
    looked = module(wishes, check_mode=True, diff=True)
    assert looked["changes"] == [{"path": f"{place}/f", "change": "created"}]
    assert "hush" not in json.dumps(looked)
    assert not (place / "f").exists()
    made = module(wishes)
    assert (made["changed"], "diff" in made) == (True, False)
    assert module(wishes, diff=True)["changed"] is False
    failed = module([{**wishes[0], "mode": "rw"}])
    assert (failed["failed"], failed["changed"]) == (True, False)
    assert "hush" not in json.dumps(failed)
    wrong = module([{**wishes[0], "state": "there"}])
    assert "value of state must be one of" in wrong["msg"]
    assert "hush" not in json.dumps(wrong)


def test_cut_off_before_the_handler(place: Path) -> None:
    """The next run reports the change again until the handler has removed the mark."""
    wish, mark = [{"path": f"{place}/f", "state": "file", "content": "x"}], place / "state/pending/x"
    assert module(wish, pending=str(mark), check_mode=True)["changed"] is True
    assert not mark.exists()
    assert module(wish, pending=str(mark))["changes"] == [{"path": f"{place}/f", "change": "created"}]
    for check in (True, False):
        again = module(wish, pending=str(mark), check_mode=check)
        assert (again["changed"], again["changes"]) == (True, [{"path": str(mark), "change": "pending"}])
    assert (mode(place / "state"), mode(place / "state/pending")) == ("0755", "0755")
    mark.unlink()
    assert module(wish, pending=str(mark))["changed"] is False
    assert not mark.exists()


def test_a_mark_in_a_directory_of_the_list(place: Path) -> None:
    """The mark is made first, and with it the directory, which then is made true like one that was missing."""
    mark = place / "state/pending/x"
    wish = [{"path": f"{place}/state", "state": "directory", "mode": "0750"}]
    assert module(wish, pending=str(mark))["changes"] == [{"path": f"{place}/state", "change": "created"}]
    assert (mode(place / "state"), mark.exists()) == ("0750", True)


@pytest.mark.parametrize("name", ["modules/tree.py", "module_utils/tree.py", "module_utils/posix_acl.py"])
def test_runs_on_the_oldest_python(name: str) -> None:
    ast.parse((ROOT / "plugins" / name).read_text(), feature_version=(3, 9))
