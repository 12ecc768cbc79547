"""A repository of apt's: its key, its source, and everything else that names the same place."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils import apt_sources, openpgp
from ansible_collections.gpufleet.host.plugins.module_utils.apt_source import AptSource, SourceError
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
    "data",
    [b"", b"<html>404</html>", b"\xff\xff", binary("good")[:40], b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"],
    ids=["empty", "a page", "noise", "half", "a header"],
)
def test_no_key_is_told_and_never_a_traceback(data: bytes) -> None:
    with pytest.raises(openpgp.NoKey):
        openpgp.read_keys(data)


# --- the host


class Host:
    """A directory that stands for one, and how often the key was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked = 0
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
            return data or key("good")

        asked = wish(**changes)
        source = AptSource(asked, str(self.root), OWNER)
        entries = source.absent() if asked["state"] == "absent" else source.present(None if check else fetch)
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
    assert host.asked == 1  # the second run needs no network


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
    host.run(state="absent")
    assert host.file(path).read_text() == OTHER


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
