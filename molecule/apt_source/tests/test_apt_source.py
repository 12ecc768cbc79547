"""What apt itself makes of the sources, on a release that verifies by sqv and on one that verifies by gpgv."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import testinfra

Again = Callable[..., Any]
Hosts = dict[str, Any]
OWN = ["/etc/apt/keyrings/gpufleet-test.asc", "/etc/apt/preferences.d/gpufleet-test"]
SOURCE = "/etc/apt/sources.list.d/gpufleet-test.sources"
PRINTS: dict[str, str] = json.loads(
    (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "fingerprints.json").read_text()
)
# As the fixtures' own test has them from gpg.
EXPIRED = "ECEDCC3AF4C711B46A53A4837CE3A4E0539A5F8F"
CURRENT = {"name": "proof", "uris": ["file:/srv/apt/current"], "key_url": "file:///srv/apt/current/key.asc", "pins": []}


@pytest.fixture
def hosts(host: Any) -> Hosts:
    """Both hosts by their release."""
    older = host.backend.name.replace("debian13", "debian12")
    return {"debian13": host, "debian12": testinfra.get_host(f"docker://{older}")}


def state(hosts: Hosts) -> dict[str, str]:
    """Return the checksums of all that the module may write."""
    look = "find /etc/apt /var/lib/gpufleet -type f -exec sha256sum {} + 2>/dev/null | sort"
    return {release: str(host.run(look).stdout) for release, host in hosts.items()}


def update(host: Any) -> str:
    """Return what `apt-get update` complains of; nothing where all is well."""
    done = host.run("apt-get update -q -o APT::Update::Error-Mode=any")
    return "" if done.rc == 0 else str(done.stderr)


def results(run: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the result of each step, by release."""
    tasks = [task for play in run.result["plays"] for task in play["tasks"] if "repositories" in task["task"]["name"]]
    return {
        "debian12" if "debian12" in name else "debian13": result["results"]
        for name, result in tasks[-1]["hosts"].items()
    }


def candidate(host: Any, package: str) -> str:
    lines = host.run("apt-cache policy %s", package).stdout.splitlines()
    return next((line.split()[1] for line in lines if "Candidate:" in line), "none")


def test_keyring_by_hand_is_retired_and_apt_works(hosts: Hosts) -> None:
    for host in hosts.values():
        assert host.run("ls /etc/apt/sources.list.d").stdout.split() == ["gpufleet-test.sources"]
        assert update(host) == ""
        assert candidate(host, "nvidia-open").startswith("580.178.04")  # pinned; 595 is there too
        assert "595.91.07-1" in host.run("apt-cache madison nvidia-open").stdout
        assert host.file(SOURCE).mode == 0o644


def test_converged_host_needs_no_network(hosts: Hosts, again: Again) -> None:
    run = again(steps=[{"key_url": "{{ test_hosts.missing_url }}"}])
    assert run.ok, run.sentence
    assert run.changed == 0


WEAK = {
    "name": "weak",
    "uris": ["file:/srv/apt/weak"],
    "key_url": "file:///srv/apt/weak/key.asc",
    "fingerprints": [PRINTS["weak"]],
    "pins": [],
}
REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"name": "x", "fingerprints": ["{{ 'A' * 40 }}"]}, ["Found the key", "A" * 40]),
    ({"name": "x", "key_url": "{{ test_hosts.stranger_key_url }}"}, ["Found the key", "a stranger"]),
    (
        {"name": "x", "key_url": "file:///srv/apt/keys/expired.asc", "fingerprints": [EXPIRED]},
        ["expired on 2021-01-01"],
    ),
    ({"name": "x", "key_url": "{{ test_hosts.missing_url }}"}, ["Found no key at", "404"]),
    ({"name": "x", "key_url": "{{ test_hosts.untrusted_url }}"}, ["Found no key at", "certificate"]),
    ({"name": "x", "key_url": "{{ url }}Packages"}, ["Found no key"]),
]


def test_wrong_keys_are_refused_with_nothing_changed(hosts: Hosts, again: Again) -> None:
    """And one bound by SHA-1 is taken where apt takes it, and nowhere else."""
    before = state(hosts)
    run = again(steps=[*(step for step, _pieces in REFUSED), WEAK])
    assert not run.ok
    for release, steps in results(run).items():
        for result, (step, pieces) in zip(steps, REFUSED, strict=False):
            assert not result["changed"], (release, result)
            assert all(piece in result.get("msg", "") for piece in pieces), (release, step, result)
        if release == "debian13":
            assert "bound by SHA-1" in steps[len(REFUSED)]["msg"]
    after = state(hosts)
    assert after["debian13"] == before["debian13"]
    more = set(after["debian12"].splitlines()) ^ set(before["debian12"].splitlines())
    assert {line.split()[1] for line in more} == {"/etc/apt/keyrings/weak.asc", "/etc/apt/sources.list.d/weak.sources"}
    # apt says the same: of the source on the older release, and of one by hand on the newer.
    assert update(hosts["debian12"]) == ""
    text = "Types: deb\\nURIs: file:/srv/apt/weak\\nSuites: /\\nSigned-By: /srv/apt/weak/key.asc\\n"
    by_hand = "/etc/apt/sources.list.d/hand.sources"
    assert hosts["debian13"].run(f"printf '{text}' >{by_hand}").rc == 0
    assert "SHA1 is not considered secure" in update(hosts["debian13"])
    assert hosts["debian13"].run(f"rm {by_hand}").rc == 0


TAMPERED = {
    "another size": ("printf '\\n' >>Packages && gzip -kf Packages", "unexpected size|Hash Sum mismatch"),
    "another word": ("sed -i 's/proof/proox/' Packages && gzip -kf Packages", "Hash Sum mismatch|unexpected size"),
    "another signer": ("cp ../old/InRelease ../old/Packages* .", "NO_PUBKEY|[Mm]issing key|not signed"),
    "changed after signing": (
        "sed -i 's/^Label: .*/Label: else/' InRelease",
        "BADSIG|not signed|[Bb]ad signature|not valid",
    ),
    "no signature": ("rm InRelease Release.gpg", "not signed"),
}
MIRROR = {
    "name": "tampered",
    "uris": ["file:/srv/apt/tampered"],
    "key_url": "file:///srv/apt/new/key.asc",
    "fingerprints": [PRINTS["new"]],
    "pins": [],
}


def serve(host: Any, repository: str, damage: str = "true") -> None:
    """Have the mirror give that repository."""
    command = f"rm -rf tampered && cp -a {repository} tampered && cd tampered && {damage}"
    assert host.run(f"cd /srv/apt && {command}").rc == 0


def test_a_tampered_mirror_is_refused_by_apt(hosts: Hosts, again: Again) -> None:
    """What stands in the source (Signed-By, no Trusted) has apt refuse all but the right one."""
    run = again(steps=[MIRROR])
    assert run.ok, run.sentence
    for release, host in hosts.items():
        for what, (damage, words) in TAMPERED.items():
            host.run("rm -rf /var/lib/apt/lists/*tampered*")
            serve(host, "new", damage)
            assert re.search(words, update(host)), (release, what, update(host))
            assert candidate(host, "gpufleet-proof") != "3", (release, what)
        serve(host, "new")
        assert update(host) == ""
        assert candidate(host, "gpufleet-proof") == "3"


def test_an_old_index_does_not_bring_old_packages_back(hosts: Hosts) -> None:
    for release, host in hosts.items():
        serve(host, "earlier")
        update(host)
        assert candidate(host, "gpufleet-proof") == "3", release


def test_a_package_that_is_not_the_indexs_is_not_installed(hosts: Hosts, again: Again) -> None:
    for host in hosts.values():
        serve(host, "new", "for each in *.deb; do printf x >>$each; done")
        assert update(host) == ""
        done = host.run("apt-get install -qq -y gpufleet-proof")
        assert done.rc != 0
        assert re.search("Hash Sum mismatch|unexpected size", done.stderr)
        assert not host.package("gpufleet-proof").is_installed
    assert again(steps=[{**MIRROR, "state": "absent"}]).ok


def test_two_keyrings_for_one_address_are_made_one(hosts: Hosts, again: Again) -> None:
    """The most common of NVIDIA's users' reports: apt reads no source at all any more."""
    for release, host in hosts.items():
        url = f"https://developer.download.nvidia.com/compute/cuda/repos/{release}/x86_64/"
        line = f"deb [signed-by=/usr/share/keyrings/cuda-archive-keyring.gpg] {url} /"
        assert host.run(f"echo '{line}' >/etc/apt/sources.list.d/mine.list").rc == 0
        assert "Conflicting values set for option Signed-By" in update(host)
    run = again()
    assert run.ok, run.sentence
    for steps in results(run).values():
        assert steps[0]["retired"] == ["/etc/apt/sources.list.d/mine.list"]
    assert [update(host) for host in hosts.values()] == ["", ""]


def test_new_key_of_the_same_repository(hosts: Hosts, again: Again) -> None:
    for host in hosts.values():
        assert host.run("ln -sfn old /srv/apt/current").rc == 0
    assert again(steps=[{**CURRENT, "fingerprints": [PRINTS["old"]]}]).ok
    assert [update(host) for host in hosts.values()] == ["", ""]
    for host in hosts.values():
        assert host.run("ln -sfn new /srv/apt/current").rc == 0
        assert update(host) != ""  # the key on the host is the old one
    run = again("--diff", steps=[{**CURRENT, "fingerprints": [PRINTS["new"]]}])
    assert run.ok, run.sentence
    for steps in results(run).values():
        assert [change["path"] for change in steps[0]["changes"]] == ["/etc/apt/keyrings/proof.asc"]
    assert [update(host) for host in hosts.values()] == ["", ""]
    assert [candidate(host, "gpufleet-proof") for host in hosts.values()] == ["3", "3"]


def test_absent_brings_back_what_was_there(hosts: Hosts, again: Again) -> None:
    gone = {"state": "absent"}
    run = again(steps=[{"name": "weak", **gone}, {"name": "proof", **gone}, gone, gone])
    assert run.ok, run.sentence
    for release, host in hosts.items():
        assert not results(run)[release][-1]["changed"]
        # What somebody wrote after the first run comes back as well.
        assert host.run("rm /etc/apt/sources.list.d/mine.list").rc == 0
        assert host.run("find /etc/apt -type f -exec sha256sum {} + | sort | diff /root/apt.before -").stdout == ""
        assert update(host) == ""
        assert not host.file("/var/lib/gpufleet/backup").exists


def test_check_tells_what_the_run_then_does(hosts: Hosts, again: Again) -> None:
    """On the host as it was before the first run."""
    before = state(hosts)
    told = results(again("--check", "--diff"))
    assert state(hosts) == before
    done = results(again("--diff"))
    for release in hosts:
        assert told[release][0]["changes"] == done[release][0]["changes"]
        assert told[release][0]["diff"] == done[release][0]["diff"]
        assert {change["path"] for change in done[release][0]["changes"]} >= {*OWN, SOURCE}
