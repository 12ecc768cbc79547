"""Which platforms the collection supports, and how well that is proven. The README's table comes from here."""

from __future__ import annotations

from typing import NamedTuple


class Platform(NamedTuple):
    """One row of the support table."""

    distribution: str  # ID of /etc/os-release
    versions: tuple[str, ...]  # VERSION_ID, or its major part
    support: str  # tested: provisioned for real by the tests; preview: planned by tables, run by nobody yet


PLATFORMS: tuple[Platform, ...] = (
    Platform("debian", ("12", "13"), "tested"),
    Platform("ubuntu", ("22.04", "24.04", "26.04"), "preview"),
    Platform("rhel", ("9", "10"), "preview"),
    Platform("rocky", ("9", "10"), "preview"),
    Platform("almalinux", ("9", "10"), "preview"),
    Platform("centos", ("9", "10"), "preview"),
    Platform("ol", ("9", "10"), "preview"),
)

# aarch64 is as good as untested: no test host has it.
ARCHITECTURES: dict[str, str] = {"x86_64": "tested", "aarch64": "preview"}


def support_of(distribution: str | None, version_id: str | None) -> str | None:
    """Return ``tested``, ``preview``, or None for a platform that nobody has planned for."""
    major = (version_id or "").split(".")[0]
    for platform in PLATFORMS:
        if platform.distribution == distribution and (version_id in platform.versions or major in platform.versions):
            return platform.support
    return None


def supported_names() -> str:
    """Return the platforms in words, for a sentence."""
    return ", ".join(f"{platform.distribution} {' and '.join(platform.versions)}" for platform in PLATFORMS)
