"""A repository of apt's: its key, its source, and everything else that names the same place."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils import apt_sources, openpgp
from ansible_collections.gpufleet.host.plugins.module_utils.apt_source import (
    AptSource,
    NoAnswerError,
    SourceError,
)
from ansible_collections.gpufleet.host.plugins.module_utils.tree import Tree
from ansible_collections.gpufleet.host.plugins.modules.apt_source import problem

KEYS = Path(__file__).parents[1] / "fixtures/keys"
# As `gpg --with-colons --list-keys` told them.
PRINTS = {
    "good": "ACF76B35800B802D61CE9577AB92CEDA97DF7264",
    "expired": "ECEDCC3AF4C711B46A53A4837CE3A4E0539A5F8F",
    "weak": "B6B6216CAE0169E21F3F42506BB03344FE110216",
    "revoked": "6C2CB933755D15C32BB2F70826F719F8D2D1EE24",
}
URL = "https://developer.example/repos/debian13/x86_64/"
OWNER = {"owner": str(os.getuid()), "group": str(os.getgid())}


def key(name: str) -> bytes:
    return (KEYS / f"{name}.asc").read_bytes()


def binary(name: str) -> bytes:
    lines = key(name).decode().splitlines()
    body = [line for line in lines[lines.index("") + 1 :] if not line.startswith(("=", "-----"))]
    return base64.b64decode("".join(body))


def wish(**changes: Any) -> dict[str, Any]:
    return {
        "name": "cuda",
        "state": "present",
        "uris": [URL],
        "suites": ["/"],
        "components": [],
        "architectures": [],
        "key_url": f"{URL}key.pub",
        "key": None,
        "fingerprints": [PRINTS["good"]],
        "pins": [{"packages": ["nvidia-open", "libcuda1*"], "pin": "version 580.*", "priority": 1001}],
        **changes,
    }


# --- keys


@pytest.mark.parametrize("name", PRINTS)
def test_fingerprints_are_gpgs(name: str) -> None:
    for data in (key(name), binary(name)):
        assert [found.fingerprint for found in openpgp.read_keys(data)] == [PRINTS[name]]


def test_two_keys_of_one_file_are_both_seen() -> None:
    both = [PRINTS["good"], PRINTS["weak"]]
    assert [found.fingerprint for found in openpgp.read_keys(key("good") + b"\n" + key("weak"))] == both
    assert [found.fingerprint for found in openpgp.read_keys(binary("good") + binary("weak"))] == both


@pytest.mark.parametrize(
    "change", [(b"\n", b"\r\n"), (b"\n", b" \n"), (b"BLOCK-----\n\n", b"BLOCK-----\nComment: x\n\n")]
)
def test_armor_of_other_hands_is_read(change: tuple[bytes, bytes]) -> None:
    assert [found.fingerprint for found in openpgp.read_keys(key("good").replace(*change))] == [PRINTS["good"]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>404</html>",
        b"\xff\xff",
        binary("good")[:40],
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
        key("good").replace(b"\n\n", b"\n"),
        key("good").replace(b"\n\n", b"\n\n!"),
    ],
    ids=["empty", "a page", "noise", "half", "a header", "armor run together", "no base64"],
)
def test_no_key_is_told_and_never_a_traceback(data: bytes) -> None:
    with pytest.raises(openpgp.NoKey):
        openpgp.read_keys(data)


def signature(hash_: int, made: int, issuer: str) -> bytes:
    """A certification as a key makes one of itself; what it signs is not looked at."""
    hashed = bytes([5, 2]) + made.to_bytes(4, "big") + bytes([22, 33, 4]) + bytes.fromhex(issuer)
    body = bytes([4, 0x13, 1, hash_]) + len(hashed).to_bytes(2, "big") + hashed + bytes([0, 0, 0, 0])
    return bytes([0xC2, len(body)]) + body


PUBLIC = bytes([4]) + (1_700_000_000).to_bytes(4, "big") + bytes([1, 0, 8, 255, 0, 8, 3])
PUBLIC_PRINT = (
    hashlib.sha1(b"\x99" + len(PUBLIC).to_bytes(2, "big") + PUBLIC, usedforsecurity=False).hexdigest().upper()
)
STRANGER = "A" * 40
SHA1, SHA256 = 2, 8
# (hash, when, by whom) of each certification, and the weak hash that counts
BOUND: dict[str, tuple[list[tuple[int, int, str]], str | None]] = {
    "not at all": ([], None),
    "by SHA-256": ([(SHA256, 1, PUBLIC_PRINT)], None),
    "by SHA-1": ([(SHA1, 1, PUBLIC_PRINT)], "SHA-1"),
    "by MD5": ([(1, 1, PUBLIC_PRINT)], "MD5"),
    "first by SHA-1 and then better": ([(SHA1, 1, PUBLIC_PRINT), (SHA256, 2, PUBLIC_PRINT)], None),
    "last by SHA-1, which sqv passes over": ([(SHA256, 1, PUBLIC_PRINT), (SHA1, 2, PUBLIC_PRINT)], None),
    "better by a stranger only": ([(SHA1, 1, PUBLIC_PRINT), (SHA256, 2, STRANGER)], "SHA-1"),
}


@pytest.mark.parametrize("name", BOUND)
def test_hash_that_binds(name: str) -> None:
    certifications, weak = BOUND[name]
    data = bytes([0xC6, len(PUBLIC)]) + PUBLIC + b"".join(signature(*each) for each in certifications)
    assert [(found.fingerprint, found.weak_hash) for found in openpgp.read_keys(data)] == [(PUBLIC_PRINT, weak)]


# --- the host


class Host:
    """A directory that stands for one, and how often the key was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked = 0
        self.answers = True
        for folder in ("etc/apt/sources.list.d", "etc/apt/preferences.d", "var/lib", "usr/bin"):
            (root / folder).mkdir(parents=True)

    def file(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def put(self, path: str, text: str) -> None:
        self.file(path).write_text(text)

    def run(self, data: bytes = b"", check: bool = False, **changes: Any) -> tuple[list[str], AptSource]:
        """Run the module's own steps; return the changed paths."""

        def fetch(_url: str) -> bytes:
            self.asked += 1
            if not self.answers:
                raise NoAnswerError("no answer")
            return data or key("good")

        asked = wish(**changes)
        source = AptSource(asked, str(self.root), OWNER)
        entries = source.absent() if asked["state"] == "absent" else source.present(fetch, check)
        tree = Tree(entries, check)
        if not check:
            tree.apply()
        return [step.path.removeprefix(str(self.root)) for step in tree.steps if step.changes], source

    def all(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_first_run_writes_three_files_and_the_second_nothing(host: Host) -> None:
    announced, _source = host.run(check=True)
    assert not host.all()
    changed, _source = host.run()
    assert changed == announced
    text = host.file("/etc/apt/sources.list.d/cuda.sources").read_text()
    assert f"URIs: {URL}\nSuites: /\nSigned-By: /etc/apt/keyrings/cuda.asc\n" in text
    pins = host.file("/etc/apt/preferences.d/cuda").read_text()
    assert "Package: nvidia-open libcuda1*\nPin: version 580.*\nPin-Priority: 1001\n" in pins
    assert host.run()[0] == []
    assert host.asked == 2  # by check and the first run; a converged host needs no network


def test_binary_key_has_the_name_that_gpgv_reads_it_by(host: Host) -> None:
    host.run(binary("good"))
    assert host.file("/etc/apt/keyrings/cuda.gpg").read_bytes() == binary("good")
    assert "Signed-By: /etc/apt/keyrings/cuda.gpg\n" in host.file("/etc/apt/sources.list.d/cuda.sources").read_text()
    assert host.run(binary("good"))[0] == []


REFUSED: dict[str, tuple[bytes, dict[str, Any], list[str]]] = {
    "a stranger's": (key("weak"), {}, [PRINTS["weak"], "Weak <weak@example.invalid>", PRINTS["good"]]),
    "one too many": (key("good") + key("weak"), {}, [PRINTS["weak"]]),
    "expired": (key("expired"), {"fingerprints": [PRINTS["expired"]]}, ["expired on 2021-01-01"]),
    "revoked": (key("revoked"), {"fingerprints": [PRINTS["revoked"]]}, ["has revoked"]),
    "a page": (b"<html>", {}, ["no key"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_key_is_refused_before_any_change(host: Host, name: str) -> None:
    data, changes, pieces = REFUSED[name]
    host.put("/etc/apt/sources.list.d/old.list", f"deb {URL} /\n")
    before = host.all()
    with pytest.raises(SourceError) as error:
        host.run(data, **changes)
    assert all(piece in str(error.value) for piece in pieces), error.value
    assert host.all() == before


def test_sha1_is_refused_only_where_apt_asks_sqv(host: Host) -> None:
    host.run(key("weak"), fingerprints=[PRINTS["weak"]])
    host.put("/usr/bin/sqv", "")
    with pytest.raises(SourceError, match="bound by SHA-1"):
        host.run(key("weak"), fingerprints=[PRINTS["weak"]])


def test_key_on_disk_that_is_wrong_is_fetched_anew(host: Host) -> None:
    host.run()
    host.put("/etc/apt/keyrings/cuda.asc", "garbage")
    assert host.run()[0] == ["/etc/apt/keyrings/cuda.asc"]
    assert host.file("/etc/apt/keyrings/cuda.asc").read_bytes() == key("good")


def test_check_without_network_announces_a_key_that_it_has_not_seen(host: Host) -> None:
    host.answers = False
    announced, _source = host.run(check=True)
    with pytest.raises(NoAnswerError):
        host.run()
    assert not host.all()
    host.answers = True
    assert host.run()[0] == announced


def test_check_tells_a_wrong_key_too(host: Host) -> None:
    with pytest.raises(SourceError, match=PRINTS["weak"]):
        host.run(key("weak"), check=True)


def test_new_fingerprint_brings_the_new_key(host: Host) -> None:
    host.run()
    assert host.run(key("weak"), fingerprints=[PRINTS["weak"]])[0] == ["/etc/apt/keyrings/cuda.asc"]
    assert host.run(b"not asked for", fingerprints=[PRINTS["weak"]])[0] == []


# --- other sources. file, text before, text after (None: gone)
SIGNED = "[signed-by=/usr/share/keyrings/cuda-archive-keyring.gpg]"
OTHER = "deb https://deb.example/debian trixie main\n"
STANZA = "Types: deb\nURIs: https://developer.example/repos/debian13/x86_64\nSuites: ./\nSigned-By: /other.gpg\n"
FOREIGN = "Types: deb\nURIs: x\nSuites: y\n"
RETIRED: dict[str, tuple[str, str, str | None]] = {
    "cuda-keyring's": ("cuda-debian13-x86_64.list", f"deb {SIGNED} {URL} /\n", None),
    "with a comment": ("a.list", f"# by hand\ndeb {SIGNED} {URL} /\n", None),
    "http and no slash": ("a.list", "deb http://developer.example/repos/debian13/x86_64 /\n", None),
    "with a password": ("a.list", "deb https://me:secret@Developer.example/repos/debian13/x86_64/ /\n", None),
    "among others": ("a.list", f"{OTHER}deb {URL} /\n{OTHER}", OTHER + OTHER),
    "deb822": ("a.sources", STANZA, None),
    "deb822 among others": (
        "a.sources",
        f"{STANZA}\nTypes: deb\nURIs: x\nSuites: y\n",
        "Types: deb\nURIs: x\nSuites: y\n",
    ),
    "an address beside ours": (
        "a.sources",
        f"# by hand\nTypes: deb\nURIs: {URL}\n  https://deb.example/x\nSuites: /\n\n{FOREIGN}",
        f"# by hand\nTypes: deb\nURIs: https://deb.example/x\nSuites: /\n\n{FOREIGN}",
    ),
    "a suite beside ours": (
        "a.sources",
        f"Types: deb\nURIs: {URL} https://deb.example/x\nSuites: / trixie\nComponents: main\n",
        "Types: deb\nURIs: https://deb.example/x\nSuites: / trixie\nComponents: main\n\n"
        f"Types: deb\nURIs: {URL}\nSuites: trixie\nComponents: main\n",
    ),
    "switched off": ("a.sources", f"Enabled: no\n{STANZA}", f"Enabled: no\n{STANZA}"),
    "a comment only": ("a.list", f"# deb {URL} /\n", f"# deb {URL} /\n"),
    "another suite": ("a.list", f"deb {URL} stable main\n", f"deb {URL} stable main\n"),
    "not read by apt": ("a.list.save", f"deb {URL} /\n", f"deb {URL} /\n"),
}


@pytest.mark.parametrize("name", RETIRED)
def test_other_sources_for_the_place_are_retired_and_come_back(host: Host, name: str) -> None:
    file, before, after = RETIRED[name]
    path = f"/etc/apt/sources.list.d/{file}"
    host.put(path, before)
    announced, source = host.run(check=True)
    assert source.retired == ([path] if after != before else [])
    changed, _source = host.run()
    assert changed == announced
    assert (host.file(path).read_text() if host.file(path).exists() else None) == after
    assert host.run()[0] == []
    host.run(state="absent")
    assert host.file(path).read_text() == before
    assert not [path for path in host.all() if "cuda." in path or "backup" in path]
    assert host.run(state="absent")[0] == []


def test_file_that_somebody_changed_since_is_not_overwritten(host: Host) -> None:
    path = "/etc/apt/sources.list.d/a.list"
    host.put(path, f"deb {URL} /\n")
    host.run()
    host.put(path, OTHER)
    _changed, source = host.run(state="absent")
    assert host.file(path).read_text() == OTHER
    assert [URL in host.file(backup).read_text() for backup in source.kept] == [True]
    assert host.run(state="absent")[0] == []


def test_file_that_somebody_brought_back_is_left_alone(host: Host) -> None:
    path = "/etc/apt/sources.list.d/a.list"
    host.put(path, f"deb {URL} /\n")
    host.run()
    host.put(path, f"deb {URL} /\n")
    _changed, source = host.run(state="absent")
    assert source.kept == []
    assert list(host.all()) == [str(host.file(path))]


def test_files_of_our_name_by_another_hand_come_back(host: Host) -> None:
    """Docker's own instructions make docker.sources and docker.asc, which a wish of this name replaces."""
    (host.root / "etc/apt/keyrings").mkdir()
    theirs = {
        "/etc/apt/sources.list.d/cuda.sources": f"{STANZA}# Signed-By: /etc/apt/keyrings/cuda.asc\n",
        "/etc/apt/sources.list.d/a.list": f"deb [signed-by=/etc/apt/keyrings/cuda.asc] {URL} /\n",
        "/etc/apt/preferences.d/cuda": "Package: x\nPin: version 1\nPin-Priority: 1\n",
        "/etc/apt/keyrings/cuda.asc": "their key",
    }
    for path, text in theirs.items():
        host.put(path, text)
    before = host.all()
    _changed, source = host.run()
    assert sorted(source.retired) == sorted(path for path in theirs if "keyrings" not in path)
    assert host.file("/etc/apt/keyrings/cuda.asc").read_bytes() == key("good")
    host.run(state="absent")
    assert host.all() == before


def test_pins_of_another_hand_are_left_where_we_have_none(host: Host) -> None:
    host.put("/etc/apt/preferences.d/cuda", "Package: x\n")
    host.run(pins=[])
    host.run(state="absent")
    assert host.file("/etc/apt/preferences.d/cuda").read_text() == "Package: x\n"


def test_mode_of_what_is_retired_comes_back(host: Host) -> None:
    path = "/etc/apt/sources.list.d/a.list"
    host.put(path, f"deb {URL} /\n")
    host.file(path).chmod(0o600)
    host.run()
    host.run(state="absent")
    assert host.file(path).stat().st_mode & 0o777 == 0o600


def test_source_for_every_architecture_is_the_same_place(host: Host) -> None:
    """NVIDIA's own instructions for the container toolkit leave the architecture to apt."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    host.put("/etc/apt/sources.list.d/a.list", "deb https://nvidia.example/deb/$(ARCH) /\n")
    _changed, source = host.run(uris=[f"https://nvidia.example/deb/{architecture}/"])
    assert source.retired == ["/etc/apt/sources.list.d/a.list"]


def test_pins_come_before_the_source(host: Host) -> None:
    """A run that is killed between them must not leave the repository without what holds it back."""
    changed, _source = host.run()
    assert changed.index("/etc/apt/preferences.d/cuda") < changed.index("/etc/apt/sources.list.d/cuda.sources")


def test_backup_of_a_password_is_roots_alone(host: Host) -> None:
    host.put("/etc/apt/sources.list.d/a.list", "deb https://me:secret@developer.example/repos/debian13/x86_64/ /\n")
    host.run()
    held = [path for path in host.root.rglob("*.json") if "secret" in path.read_text()]
    assert len(held) == 1
    assert oct(held[0].stat().st_mode & 0o777) == "0o600"


def test_pins_alone(host: Host) -> None:
    changed, _source = host.run(uris=[], key_url=None, fingerprints=[])
    assert changed == ["/etc/apt/preferences.d/cuda"]
    assert host.asked == 0
    host.run(uris=[], key_url=None, fingerprints=[], pins=[])
    assert not host.all()


def test_source_goes_where_only_pins_are_wished_any_more(host: Host) -> None:
    host.put("/etc/apt/sources.list.d/a.list", f"deb {URL} /\n")
    host.put("/etc/apt/preferences.d/cuda", "Package: x\n")
    host.run()
    host.run(uris=[], key_url=None, fingerprints=[])
    assert not host.file("/etc/apt/sources.list.d/cuda.sources").exists()
    assert host.file("/etc/apt/sources.list.d/a.list").exists()
    assert "version 580.*" in host.file("/etc/apt/preferences.d/cuda").read_text()
    host.run(state="absent")
    assert host.file("/etc/apt/preferences.d/cuda").read_text() == "Package: x\n"
    assert len(host.all()) == 2


PLACES = [
    ("https://a.example/x/", "/", "http://A.example/x", "./", True),
    ("https://a.example//x", "/", "https://a.example/x/", "/", True),
    ("https://a.example/x", "stable", "https://a.example/x", "stable", True),
    ("https://a.example/x", "stable", "https://a.example/x", "trixie", False),
    ("https://a.example/x", "/", "https://a.example/y", "/", False),
    ("file:/srv/x/", "/", "file:/srv/x", "/", True),
]


@pytest.mark.parametrize(("uri", "suite", "other", "others", "same"), PLACES)
def test_places(uri: str, suite: str, other: str, others: str, same: bool) -> None:
    assert (apt_sources.place(uri, suite) == apt_sources.place(other, others)) is same


PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "a/../b"}, "name=a/../b"),
    "star": ({"pins": [{"packages": ["*"], "pin": "x", "priority": 1}]}, "all packages"),
    "line break": ({"uris": ["https://x/\nTrusted: yes"]}, "line break"),
    "no key": ({"key_url": None}, "signing key"),
    "no fingerprint": ({"fingerprints": []}, "fingerprints is empty"),
    "short fingerprint": ({"fingerprints": ["EB693B30"]}, "'EB693B30'"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_bad_input_is_one_sentence(name: str) -> None:
    changes, piece = PROBLEMS[name]
    assert piece in str(problem(wish(**changes)))
    assert problem(wish()) is None
