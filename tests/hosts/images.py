"""Images of bare hosts with systemd, made from the machine's own Debian mirror, or pulled where one is named."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hosts.common import DEBIAN_KEYS, HostsError, cache, need, run, say, step
from hosts.engine import docker, try_docker


@dataclass(frozen=True)
class Release:
    """A distribution that hosts can have."""

    name: str
    suite: str
    # What a minimal server installation has, and what ansible's modules need before a role can install anything.
    packages: tuple[str, ...] = (
        "systemd",
        "systemd-sysv",
        "dbus",
        "libpam-systemd",
        "python3",
        "python3-apt",
        "sudo",
        "ca-certificates",
        "passwd",  # required on every real Debian
        "iproute2",
        "procps",
        "acl",
    )

    @property
    def current(self) -> str:
        """The image that scenarios use."""
        return f"gpufleet-test/{self.name}:current"

    @property
    def made(self) -> str:
        """The image made of exactly this recipe."""
        recipe = json.dumps([asdict(self), _COMMANDS, _DPKG])
        return f"gpufleet-test/{self.name}:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"

    @property
    def override(self) -> str | None:
        """The user's own image, from GPUFLEET_TEST_IMAGE_<NAME>."""
        return os.environ.get(f"GPUFLEET_TEST_IMAGE_{self.name.upper()}") or None


RELEASES: Mapping[str, Release] = {
    release.name: release for release in (Release("debian12", "bookworm"), Release("debian13", "trixie"))
}

# The machine id is made at the first boot, so that two hosts never share one.
_COMMANDS = (': > "$1"/etc/machine-id', 'rm -f "$1"/etc/hostname "$1"/etc/resolv.conf')
# Manuals and translations are half of the files and no role looks at them.
_DPKG = ("path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/doc/*")


def parse_releases(names: Iterable[str]) -> list[Release]:
    """Return the releases of these names, in their order, each once.

    Raises:
        HostsError: there is no such release.
    """
    chosen = list(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in RELEASES]
    if unknown:
        raise HostsError(f"there is no test host {', '.join(unknown)}: choose from {', '.join(RELEASES)}.")
    return [RELEASES[name] for name in chosen]


def parse_sources(text: str) -> list[tuple[str, str]]:
    """Return (address, suite) of each binary source in apt's one-line or deb822 form."""
    found: list[tuple[str, str]] = []
    for match in re.finditer(r"(?m)^deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+(\S+)", text):
        found.append((match[1], match[2]))
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.*)$", stanza))
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
            found += [(uri, suite) for uri in fields.get("URIs", "").split() for suite in fields["Suites"].split()]
    return found


def mirror_lines(sources: Iterable[tuple[str, str]], release: Release) -> list[str]:
    """Return apt sources for a release from the addresses that this machine uses for its own.

    The address of a machine's `<suite>-security` serves the other releases' security updates too.
    Empty when the machine is no Debian: mmdebstrap then uses its built-in address.
    """
    suites = {each.suite for each in RELEASES.values()}
    main = next((uri for uri, suite in sources if suite in suites), None)
    security = next((uri for uri, suite in sources if suite.removesuffix("-security") in suites - {suite}), None)
    lines = []
    if main:
        lines += [f"deb {main} {suite} main" for suite in (release.suite, f"{release.suite}-updates")]
    if main and security:
        lines.append(f"deb {security} {release.suite}-security main")
    return lines


def _machine_sources() -> list[tuple[str, str]]:
    apt = Path("/etc/apt")
    files = [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list")), *apt.glob("sources.list.d/*.sources")]
    return [source for file in files if file.exists() for source in parse_sources(file.read_text())]


def up(release: Release) -> None:
    """Make sure that `gpufleet-test/<release>:current` is the image it should be."""
    wanted = release.override or release.made
    wanted_id = _id(wanted)
    if wanted_id is None and release.override:
        with step(f"pulling {wanted} (GPUFLEET_TEST_IMAGE_{release.name.upper()})"):
            docker("pull", wanted)
    elif wanted_id is None:
        _make(release)
    if wanted_id is None or _id(release.current) != wanted_id:
        docker("tag", wanted, release.current)
        say(f"{release.current} is {wanted}")


def _id(image: str) -> str | None:
    return try_docker("image", "inspect", "-f", "{{.Id}}", image)


def _make(release: Release) -> None:
    archive = cache() / "images" / f"{release.made.rpartition('/')[2].replace(':', '-')}.tar"
    if not archive.exists():
        need("mmdebstrap", DEBIAN_KEYS)
        with step(f"making the image of {release.name} from Debian's packages (about a minute)"):
            _bootstrap(release, archive)
    with step(f"importing the image of {release.name}"):
        changes = [
            "-c",
            'CMD ["/lib/systemd/systemd"]',
            "-c",
            "ENV container=docker",
            "-c",
            "LABEL gpufleet-test=image",
        ]
        docker("import", *changes, archive, release.made)


def _bootstrap(release: Release, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_suffix(".partial.tar")
    options = [*dpkg_options(), *(f"--customize-hook={line}" for line in _COMMANDS)]
    include = "--include=" + ",".join(release.packages)
    run(["mmdebstrap", "--quiet", "--variant=apt", include, *options, release.suite, partial, *sources_of(release)])
    partial.rename(archive)


def dpkg_options() -> list[str]:
    """Return mmdebstrap's arguments that leave out what no role looks at."""
    return [f"--dpkgopt={line}" for line in _DPKG]


def sources_of(release: Release) -> list[str]:
    """Return the apt sources of a release on this machine."""
    return mirror_lines(_machine_sources(), release)
