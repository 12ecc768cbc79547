"""What two members, an outsider and root can do with the cache, by doing it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = "/srv/ml"
HUB = f"{ROOT}/cache/huggingface/hub"
Again = Callable[..., Any]
SHARED = [
    f"{ROOT}/cache/huggingface/hub",
    f"{ROOT}/cache/huggingface/datasets",
    f"{ROOT}/cache/huggingface/xet",
    f"{ROOT}/cache/torch/checkpoints",
    f"{ROOT}/data/torch_starter",
]
SECRETS = [
    ("alice", "/home/alice/.cache/huggingface/token", "hf_TestTokenOfAlice"),
    ("alice", "/home/alice/.kaggle/kaggle.json", "KaggleKeyOfAlice"),
    ("bob", "/home/bob/.config/gpufleet/env", "WandbKeyOfBob"),
]
# As huggingface_hub does: nested directories, a lock that asks for 0644 itself, a blob that is renamed, a link to it.
DOWNLOAD = """
import fcntl, os, sys
base = sys.argv[1] + "/models--org--" + sys.argv[2]
locks = sys.argv[1] + "/.locks/models--org--" + sys.argv[2]
for directory in (base + "/blobs", base + "/snapshots/abc", base + "/refs", locks):
    os.makedirs(directory, exist_ok=True)
lock = os.open(locks + "/blob.lock", os.O_RDWR | os.O_CREAT, 0o644 if sys.argv[3] == "narrow" else 0o666)
fcntl.flock(lock, fcntl.LOCK_EX)
with open(base + "/blobs/blob.incomplete", "a") as blob:
    blob.write("weights")
os.replace(base + "/blobs/blob.incomplete", base + "/blobs/blob")
link = base + "/snapshots/abc/model.safetensors"
if os.path.lexists(link):
    os.unlink(link)
os.symlink("../../blobs/blob", link)
with open(base + "/refs/main", "w") as ref:
    ref.write("abc")
print(open(link).read())
"""


def as_user(host: Any, user: str, command: str, umask: str = "022") -> Any:
    """Run a command as that user after a login, with that umask."""
    return host.run("su - %s -c %s", user, f"umask {umask}; {command}")


@pytest.mark.parametrize("umask", ["022", "077", "002"])
@pytest.mark.parametrize(("first", "second"), [("alice", "bob"), ("bob", "alice")])
def test_members_work_on_each_others_files(host: Any, first: str, second: str, umask: str) -> None:
    places = " ".join(f"{path}/{first}-{umask}" for path in SHARED)
    make = f"set -e; for p in {places}; do mkdir $p $p/deep; echo one > $p/deep/file; done"
    made = as_user(host, first, make, umask)
    assert made.rc == 0, made.stderr
    use = "cat $p/deep/file; echo two >> $p/deep/file; touch $p/deep/new; rm $p/deep/new; mv $p/deep/file $p/deep/moved"
    used = as_user(host, second, f"set -e; for p in {places}; do {use}; done", umask)
    assert (used.rc, used.stdout) == (0, "one\n" * len(SHARED)), used.stderr
    again = as_user(host, first, f"set -e; for p in {places}; do cat $p/deep/moved; rm -r $p; done", umask)
    assert (again.rc, again.stdout) == (0, "one\ntwo\n" * len(SHARED)), again.stderr


@pytest.mark.parametrize("umask", ["022", "077"])
def test_hub_cache_with_locks(host: Any, umask: str) -> None:
    """What huggingface_hub does, by one member and then by the other, on the same model."""
    command = f"python3 -c {shlex.quote(DOWNLOAD)} {ROOT}/cache/huggingface/hub m{umask} wide"
    for user in ("alice", "bob", "alice"):
        done = as_user(host, user, command, umask)
        assert (done.rc, done.stdout) == (0, "weights\n"), done.stderr


def test_lock_that_asks_for_a_narrow_mode(host: Any) -> None:
    """filelock before 3.24 creates its locks with 0644, which no default ACL can widen: the reader is locked out.

    This is why the environment has a newer one. When this test fails, the kernel changed, and the bound can go.
    """
    command = f"python3 -c {shlex.quote(DOWNLOAD)} {ROOT}/cache/huggingface/hub narrow narrow"
    assert as_user(host, "alice", command).rc == 0
    refused = as_user(host, "bob", command)
    assert refused.rc != 0
    assert "PermissionError" in refused.stderr


def allowed(host: Any, user: str, commands: list[str]) -> list[str]:
    """Which of the commands succeed; one login for all of them."""
    script = "".join(f"if ({command}) > /dev/null 2>&1; then echo {shlex.quote(command)}; fi; " for command in commands)
    return list(as_user(host, user, script).stdout.splitlines())


def test_outsider_reads_and_does_not_write(host: Any) -> None:
    assert as_user(host, "alice", f"for p in {' '.join(SHARED)}; do echo data > $p/for-all; done", "077").rc == 0
    reads = [f"grep data {path}/for-all" for path in SHARED]
    writes = ["touch {}/mine", "echo x >> {}/for-all", "rm -f {}/for-all", "mv {} {}.old"]
    assert allowed(host, "carol", reads + [write.format(path, path) for path in SHARED for write in writes]) == reads


@pytest.mark.parametrize("user", ["alice", "bob", "carol"])
def test_nobody_swaps_a_directory(host: Any, user: str) -> None:
    trunk = (ROOT, f"{ROOT}/cache", f"{ROOT}/cache/huggingface", f"{ROOT}/users", f"{ROOT}/data", f"{ROOT}/wheels")
    commands = [f"touch {path}/x" for path in trunk] + [f"mv {path} {path}.mine" for path in SHARED]
    assert allowed(host, user, commands) == []


@pytest.mark.parametrize(("owner", "path", "content"), SECRETS)
def test_secrets(host: Any, owner: str, path: str, content: str) -> None:
    assert content in as_user(host, owner, f"cat {path}").stdout
    assert as_user(host, owner, f"echo '# mine' > {path}.new && rm {path}.new").rc == 0
    for other in {"alice", "bob", "carol"} - {owner}:
        seen = as_user(host, other, f"cat {path}; ls {Path(path).parent}")
        assert content not in seen.stdout
        assert "Permission denied" in seen.stderr
    file, directory = host.file(path), host.file(str(Path(path).parent))
    assert (file.user, file.mode, directory.user, directory.mode) == (owner, 0o600, owner, 0o700)
    for name in (path, str(Path(path).parent)):
        assert host.run("getfacl -cpE %s", name).stdout.count(":") == 6, "an ACL names somebody"


def test_kaggle_json_is_json(host: Any) -> None:
    key = json.loads(as_user(host, "alice", "cat ~/.kaggle/kaggle.json").stdout)
    assert key == {"username": "alice", "key": "KaggleKeyOfAlice"}


def test_private_directories(host: Any) -> None:
    assert as_user(host, "alice", f"echo mine > {ROOT}/users/alice/scratch/f").rc == 0
    for other in ("bob", "carol"):
        assert as_user(host, other, f"ls {ROOT}/users/alice").rc != 0
    assert host.run(f"getfacl -cpE {ROOT}/users/alice").stdout.count(":") == 6


def test_checkpoints_are_shared_and_hub_code_is_not(host: Any) -> None:
    hub = "/.cache/torch/hub"
    assert as_user(host, "alice", f"echo w > ~{hub}/checkpoints/net.pt && mkdir -p ~{hub}/code_main", "077").rc == 0
    assert as_user(host, "bob", f"cat ~{hub}/checkpoints/net.pt").stdout == "w\n"
    assert as_user(host, "bob", f"ls ~{hub}").stdout == "checkpoints\n"


def test_nobody_is_root_by_docker(host: Any) -> None:
    for user in ("alice", "bob"):
        assert set(host.user(user).groups) == {user, "ml"} | ({"users"} & set(host.user(user).groups))


def test_cleaning(host: Any) -> None:
    """The timer waits, and its service removes an old leftover of a member, and nothing else."""
    hub = f"{ROOT}/cache/huggingface/hub/models--org--broken/blobs"
    files = f"{hub}/old.incomplete {hub}/new.incomplete {hub}/blob"
    made = as_user(
        host, "alice", f"mkdir -p {hub} && touch {files} && touch -d '3 days ago' {hub}/old.incomplete {hub}/blob"
    )
    assert made.rc == 0, made.stderr
    assert host.run("systemctl is-active gpufleet-cache-clean.timer").stdout == "active\n"
    assert host.run("systemctl is-enabled gpufleet-cache-clean.timer").stdout == "enabled\n"
    ran = host.run("systemctl start gpufleet-cache-clean.service")
    assert ran.rc == 0, host.run("journalctl -u gpufleet-cache-clean.service").stdout
    assert sorted(host.run(f"ls {hub}").stdout.split()) == ["blob", "new.incomplete"]


@pytest.mark.parametrize("user", ["alice", "bob"])
def test_warmed_model_is_the_members(host: Any, user: str) -> None:
    model = f"{HUB}/models--org--normal"
    read = as_user(host, user, f"cat {model}/snapshots/abc/weights")
    assert read.stdout == "None /etc/ssl/certs/ca-certificates.crt\n", read.stderr
    written = as_user(
        host, user, f"for f in {model}/refs/main {model}/blobs/blob; do true >> $f; done; touch {model}/x"
    )
    assert (written.rc, written.stderr) == (0, "")
    assert as_user(host, user, f"rm {model}/x").rc == 0
    assert host.run(f"find {model} -user root").stdout == ""


def test_warming_does_not_follow_what_a_member_planted(host: Any, again: Again) -> None:
    planted = f"{HUB}/models--org--planted/refs/main"
    assert host.run("echo precious > /root/secret").rc == 0
    assert as_user(host, "alice", f"mkdir -p {Path(planted).parent} && ln -s /root/secret {planted}").rc == 0
    models = [{"repo_id": "org/planted"}, {"repo_id": "org/mirrored"}]
    overrides = {"HF_ENDPOINT": "https://hub.site.example"}
    ran = again(ml_cache_warm_models=models, env_profile_overrides=overrides)
    assert not ran.ok
    assert ran.sentence == (
        f"Found the link {planted} of user alice, which leads out of the cache to /root/secret, so org/planted is not "
        "downloaded: ask that user what it is for, remove it, and run again."
    )
    assert host.file("/root/secret").content_string == "precious\n"
    other = as_user(host, "bob", f"cat {HUB}/models--org--mirrored/snapshots/abc/weights").stdout
    assert other.startswith("https://hub.site.example "), "the other model is downloaded all the same, from the mirror"
    assert host.run(f"rm -r {HUB}/models--org--planted").rc == 0


def test_check_mode_announces_the_models_of_a_host_without_an_environment(host: Any, again: Again) -> None:
    """Another role would have made it by then."""
    assert not host.file("/opt/nowhere").exists
    announced = again("--check", ml_cache_venv_path="/opt/nowhere")
    assert (announced.ok, announced.changed) == (True, 1), announced.sentence


@pytest.mark.parametrize(
    ("wishes", "sentences"),
    [
        (
            {"ml_cache_users": ["alice", "bob", "nobody-here"], "ml_cache_root": "/etc/hostname"},
            ["Found no user 'nobody-here' on the host", "Found a file at /etc/hostname, where a directory belongs"],
        ),
        ({"ml_cache_root": "/run/ramfs/ml"}, ["Found no POSIX ACLs on /run/ramfs (ramfs)"]),
    ],
)
def test_refused_before_any_change(host: Any, again: Again, wishes: dict[str, Any], sentences: list[str]) -> None:
    """What only a host can show, in the plan's words; the others are in tests/unit/test_cache_layout.py."""
    if "ramfs" in str(wishes) and host.run("mkdir -p /run/ramfs && mount -t ramfs none /run/ramfs").rc != 0:
        pytest.skip("this machine does not let a test host mount")
    state = "find /srv /run/ramfs /home -printf '%p %m %u %g %i %T@\\n' 2>/dev/null; getent group"
    before = host.run(state).stdout
    ran = again(**wishes)
    assert [sentence for sentence in sentences if sentence not in ran.sentence] == []
    assert "hf_TestTokenOfAlice" not in str(ran)
    assert host.run(state).stdout == before


def test_no_secret_is_shown(tmp_path: Path, host: Any) -> None:
    """Neither in a diff, nor with -vvv, nor in the host's log."""
    secrets = [{"user": "alice", "name": "env", "content": "hush-hush-42"}]
    file = tmp_path / "wishes.json"
    file.write_text(json.dumps({"ml_cache_secrets": secrets}))
    play = Path(__file__).resolve().parents[1] / "converge.yml"
    command = ["ansible-playbook", "--check", "--diff", "-vvv", "-i", os.environ["MOLECULE_INVENTORY_FILE"]]
    result = subprocess.run([*command, "-e", f"@{file}", str(play)], capture_output=True, text=True, check=False)
    assert "failed=0" in result.stdout, result.stderr
    assert "hush-hush" not in result.stdout + result.stderr
    assert "hf_TestTokenOfAlice" not in host.run("journalctl --no-pager").stdout


def test_single_user_is_the_guides_755(host: Any, again: Again) -> None:
    """After a shared time, so that its ACLs have to go. What comes there and what is cleaned is the owner's."""
    wishes: dict[str, Any] = {"ml_cache_root": "/srv/one", "ml_cache_secrets": []}
    hub = "/srv/one/cache/huggingface/hub"
    refused = again(**wishes, ml_cache_venv_path="/opt/nowhere")
    assert refused.sentence.startswith("Found no Python in ml_cache_venv_path /opt/nowhere, whose huggingface_hub")
    assert allowed(host, "bob", [f"touch {hub}/b"]) == [f"touch {hub}/b"]
    wishes |= {"ml_cache_users": ["alice"], "ml_cache_mode": "single_user"}
    ran = again(**wishes)
    assert ran.ok, ran.sentence
    directory = host.file(hub)
    assert (directory.user, directory.group, directory.mode) == ("alice", "alice", 0o755)
    assert host.file(f"{hub}/models--org--normal/blobs/blob").user == "alice"
    writes = [f"touch {hub}/new && rm {hub}/new"]
    assert allowed(host, "alice", [*writes, f"touch -d '3 days ago' {hub}/old.incomplete"])[:1] == writes
    assert allowed(host, "bob", [*writes, f"rm -f {hub}/b"]) == []
    assert host.run("systemctl start gpufleet-cache-clean.service").rc == 0
    assert not host.file(f"{hub}/old.incomplete").exists


def test_closed_team(host: Any, again: Again) -> None:
    """Under another root, where the users' checkpoints go along; and a member has linked models to another disk."""
    theirs = "~/.cache/huggingface"
    away = f"mkdir -p ~/big && mv {theirs}/* ~/big/ && rmdir {theirs} && ln -s ~/big {theirs}"
    assert as_user(host, "alice", away).rc == 0
    ran = again(ml_cache_others="none", ml_cache_root="/srv/closed")
    assert ran.ok, ran.sentence
    assert as_user(host, "alice", "echo x > /srv/closed/data/torch_starter/f").rc == 0
    assert as_user(host, "bob", "cat /srv/closed/data/torch_starter/f").stdout == "x\n"
    assert as_user(host, "bob", "cat /srv/closed/cache/huggingface/hub/models--org--normal/refs/main").stdout == "abc"
    assert as_user(host, "carol", "ls /srv/closed").rc != 0
    assert (
        as_user(host, "bob", "readlink ~/.cache/torch/hub/checkpoints").stdout
        == "/srv/closed/cache/torch/checkpoints\n"
    )
    assert as_user(host, "alice", "readlink ~/.cache/huggingface; cat ~/big/token").stdout.split() == [
        "/home/alice/big",
        "hf_TestTokenOfAlice",
    ]


def test_run_that_was_cut_off_is_finished_by_the_next(host: Any, again: Again) -> None:
    """The units are there, the timer was not started: files alone would say that all is well."""
    cut = "systemctl stop gpufleet-cache-clean.timer && touch /var/lib/gpufleet/pending/ml_cache"
    assert host.run(cut).rc == 0
    ran = again()
    assert ran.ok, ran.sentence
    assert host.run("systemctl is-active gpufleet-cache-clean.timer").stdout == "active\n"
    assert not host.file("/var/lib/gpufleet/pending/ml_cache").exists


def test_absent_keeps_what_users_stored(host: Any, again: Again) -> None:
    """Last, because it takes the keys away that the others look at."""
    secrets = [{"user": user, "name": name, "content": "x"} for user, name in (("alice", "hf_token"), ("bob", "env"))]
    away = {"ml_cache_state": "absent", "ml_cache_secrets": secrets}
    assert as_user(host, "alice", f"echo work > {ROOT}/data/torch_starter/work").rc == 0
    assert again(**away).ok
    assert host.file(f"{ROOT}/data/torch_starter/work").exists
    assert not host.file("/home/alice/.cache/huggingface/token").exists
    assert host.file("/home/alice/.kaggle/kaggle.json").exists  # it was not in the list
    assert host.run("systemctl is-active gpufleet-cache-clean.timer").stdout != "active\n"
    assert host.run("ls /etc/systemd/system/*/gpufleet* /etc/systemd/system/gpufleet*").stdout == ""
    assert again(**away).changed == 0
    everything = again(**away, ml_cache_remove_data=True)
    assert everything.ok, everything.sentence
    assert not host.file(ROOT).exists
    made = as_user(host, "alice", "cd ~/.cache/torch/hub && mkdir checkpoints && rmdir checkpoints")
    assert made.rc == 0, "a dangling link stayed"
