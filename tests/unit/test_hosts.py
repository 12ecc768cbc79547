"""The parts of the test hosts that need no container engine."""

from __future__ import annotations

import gzip
import json
import re
import ssl
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from hosts import archives, driver_packages, images, mirror, packages, pki, server, stand_in
from hosts.common import HostsError

DEB822 = """\
Types: deb deb-src
URIs: http://first.example/debian http://second.example/debian
Suites: bookworm bookworm-updates
Components: main

Types: deb
# a remark
URIs: http://first.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("# deb http://a.example x main\n", []),
        ("deb http://a.example trixie main\ndeb-src http://a.example trixie main\n", [("http://a.example", "trixie")]),
        ("deb [arch=amd64 signed-by=/k.gpg] http://a.example sid main", [("http://a.example", "sid")]),
        (
            DEB822,
            [
                ("http://first.example/debian", "bookworm"),
                ("http://first.example/debian", "bookworm-updates"),
                ("http://second.example/debian", "bookworm"),
                ("http://second.example/debian", "bookworm-updates"),
                ("http://first.example/debian-security", "bookworm-security"),
            ],
        ),
    ],
)
def test_sources_are_read_in_both_forms(text: str, expected: list[tuple[str, str]]) -> None:
    assert images.parse_sources(text) == expected


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ([], []),  # then mmdebstrap uses its own address
        ([("http://u.example/ubuntu", "noble"), ("http://u.example/ubuntu", "noble-security")], []),
        (
            [("http://m.example/d", "bookworm")],
            ["deb http://m.example/d trixie main", "deb http://m.example/d trixie-updates main"],
        ),
        (
            [
                ("http://x.example", "nodistro"),
                ("http://m.example/d", "trixie"),
                ("http://s.example/s", "trixie-security"),
            ],
            [
                "deb http://m.example/d trixie main",
                "deb http://m.example/d trixie-updates main",
                "deb http://s.example/s trixie-security main",
            ],
        ),
    ],
)
def test_the_machines_own_mirror_serves_the_hosts(sources: list[tuple[str, str]], expected: list[str]) -> None:
    assert images.mirror_lines(sources, images.RELEASES["debian13"]) == expected


def test_releases_are_chosen_by_name_each_once() -> None:
    assert [each.suite for each in images.parse_releases(["debian13", "debian12", "debian13"])] == [
        "trixie",
        "bookworm",
    ]


def test_an_unknown_release_is_refused_with_the_choice() -> None:
    with pytest.raises(HostsError, match=r"no test host debian9: choose from debian12, debian13"):
        images.parse_releases(["debian13", "debian9"])


def test_another_recipe_is_another_image() -> None:
    release = images.RELEASES["debian13"]
    changed = images.Release(release.name, release.suite, (*release.packages, "zsh"))
    assert release.made != changed.made
    assert release.current == changed.current == "gpufleet-test/debian13:current"


def test_an_own_image_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUFLEET_TEST_IMAGE_DEBIAN13", "registry.example/debian:13")
    assert images.RELEASES["debian13"].override == "registry.example/debian:13"
    assert images.RELEASES["debian12"].override is None


@pytest.fixture
def platform() -> dict[str, object]:
    text = (Path(__file__).parents[2] / ".config/molecule/config.yml").read_text()
    found: dict[str, object] = yaml.safe_load(text)["platforms"][0]
    return found


def test_hosts_have_a_cgroup_tree_of_their_own(platform: dict[str, object]) -> None:
    # A bind of the machine's tree lets systemd in the container turn the machine's read-only (cgroup v1).
    assert platform["cgroupns_mode"] == "private"
    assert not [volume for volume in str(platform["volumes"]).split() if "/sys/fs/cgroup" in volume]
    assert "remount,rw /sys/fs/cgroup" in str(platform["command"])  # cgroup v2 mounts it read-only


def test_hosts_share_the_mirrors_network(platform: dict[str, object]) -> None:
    assert platform["networks"] == [{"name": "gpufleet-test${GPUFLEET_TEST_SUFFIX}"}]


def test_every_repository_has_an_address_of_the_mirror_and_its_own_place() -> None:
    places = [(each.host, each.path) for each in packages.REPOSITORIES]
    assert len(set(places)) == len(places)
    assert {host for host, _ in places} <= set(mirror.NAMES)
    assert server.UNTRUSTED not in mirror.NAMES


@pytest.mark.parametrize("repository", packages.REPOSITORIES, ids=lambda each: f"{each.host}/{each.path}")
def test_every_repository_is_whole(repository: packages.Repository) -> None:
    assert repository.armored_keys or repository.binary_keys
    have = {(each.name, each.version) for each in repository.packages}
    assert len(have) == len(repository.packages)
    for package in repository.packages:
        for wanted in re.split(r", | \| ", package.depends):
            name, _, version = wanted.partition(" (= ")
            assert not version or (name, version.rstrip(")")) in have, f"{package.name} needs {wanted}"
        assert not any(path.startswith("/") for path in package.files)


def test_a_control_file_says_what_the_package_is() -> None:
    control = stand_in.Package("a", "1-1", "b (= 1-1)", "all").control()
    assert "Package: a\nVersion: 1-1\nArchitecture: all\n" in control
    assert "Depends: b (= 1-1)\n" in control
    assert "Depends" not in stand_in.Package("a", "1-1").control()


def _download(version: str, variant: str = "default") -> dict[str, object]:
    url = f"https://x.example/releases/download/20261009/cpython-{version}%2B20261009-y.tar.gz"
    return {"implementation": "cpython", "variant": variant, "version": version, "url": url}


def test_the_newest_download_is_the_first_plain_one() -> None:
    listing = json.dumps([_download("3.12.15", "freethreaded"), _download("3.12.15"), _download("3.12.14")])
    assert archives.parse_newest(listing) == ("3.12.15", "20261009", "cpython-3.12.15+20261009-y.tar.gz")


def test_no_download_is_an_error() -> None:
    with pytest.raises(HostsError, match="uv knows no CPython"):
        archives.parse_newest("[]")


def test_the_downloads_list_names_the_place_that_uv_replaces_by_the_mirror(tmp_path: Path) -> None:
    python = archives.CPython("3.12.15", "20261009", tmp_path / "cpython-3.12.15+20261009-y.tar.gz", "ab" * 32)
    ((key, entry),) = python.downloads().items()
    assert key.startswith("cpython-3.12.15-linux-")
    assert isinstance(entry, dict)
    assert entry["url"].startswith("https://github.com/astral-sh/python-build-standalone/releases/download/20261009/")
    assert "%2B" in entry["url"]
    assert entry["sha256"] == "ab" * 32
    ((_, wrong),) = python.downloads("0" * 64).items()
    assert isinstance(wrong, dict)
    assert wrong["sha256"] == "0" * 64


def test_an_archive_depends_on_its_content_alone(tmp_path: Path) -> None:
    sums = []
    for name in ("one", "two"):
        tree = tmp_path / name
        tree.mkdir()
        (tree / "program").write_text("same")
        archives.pack(tree, "top", tmp_path / f"{name}.tar.gz")
        sums.append(archives.sha256(tmp_path / f"{name}.tar.gz"))
    assert sums[0] == sums[1]
    with tarfile.open(tmp_path / "one.tar.gz") as tar:
        assert tar.getnames() == ["top", "top/program"]
    assert gzip.decompress((tmp_path / "one.tar.gz").read_bytes())


def test_the_mirrors_certificate_passes_the_strict_check_of_python_3_13(tmp_path: Path) -> None:
    pki.make(tmp_path, "test authority", ["a.example", "b.example"])
    trusting = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    assert _handshake(trusting, server.context(tmp_path), "b.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _handshake(trusting, server.context(tmp_path), "c.example")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-signed"):
        _handshake(ssl.create_default_context(), server.context(tmp_path), "a.example")


def _handshake(client: ssl.SSLContext, serving: ssl.SSLContext, name: str) -> bool:
    """Shake hands in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = serving.wrap_bio(to_server, to_client, server_side=True)
    done = set()
    for _ in range(10):
        for side in (ours, theirs):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
    return len(done) == 2


def test_the_command_refuses_an_unknown_release_in_one_sentence() -> None:
    command = [str(Path(__file__).parents[1] / "hosts"), "up", "--release", "plan9"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "hosts: error: there is no test host plan9: choose from debian12, debian13.\n"


def test_stand_ins_of_a_driver_can_be_installed_with_each_other() -> None:
    """A version-bound dependency that is not there would only show as apt's refusal in a scenario."""
    made = driver_packages.packages_of((*driver_packages.VERSIONS, driver_packages.BROKEN))
    there = {(package.name, package.version) for package in made}
    assert len(there) == len(made)
    bound = {pair for package in made for pair in re.findall(r"(\S+) \(= (\S+)\)", package.depends)}
    assert bound
    assert bound <= there
    wrong = [package for package in made if "pci_resize_resource" in str(package.files)]
    assert {package.version for package in wrong} == {f"{driver_packages.BROKEN}-1"}
