"""Stand-in packages and the signed flat repositories that carry them, in NVIDIA's layout.

A stand-in has the real name, version and dependencies, and small scripts that answer as the real tool does where a
role asks it. Add rows to `REPOSITORIES` for what a role needs; nothing else has to change.
"""

from __future__ import annotations

import gzip
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hosts import driver_packages as driver
from hosts.common import HostsError, need, run
from hosts.stand_in import File, Package, debian_arch

# A file with this content is the repository's public key in binary form.
KEYRING = "<keyring>"
_NVIDIA_ARCH = {"x86_64": "x86_64", "aarch64": "sbsa"}


def nvidia_arch() -> str:
    """Return NVIDIA's name of this machine's architecture in repository addresses."""
    return _NVIDIA_ARCH[platform.machine()]


@dataclass(frozen=True)
class Repository:
    """A signed flat repository at `https://<host>/<path>/`, with its keys at paths of the same host."""

    host: str
    path: str
    origin: str
    label: str
    packages: tuple[Package, ...]
    armored_keys: tuple[str, ...] = ()
    binary_keys: tuple[str, ...] = ()


def _script(*lines: str) -> File:
    return File("\n".join(["#!/bin/sh", *lines, ""]), 0o755)


def _toolkit(version: str) -> tuple[Package, ...]:
    plain = version.partition("-")[0]
    no_gpu = "failed to initialize NVML: ERROR_LIBRARY_NOT_FOUND"
    ctk = _script(
        'case "$*" in',
        f"  --version) echo 'NVIDIA Container Toolkit CLI version {plain}'; echo 'commit: 0000000' ;;",
        "  'cdi list') echo 'level=info msg=\"Found 0 CDI devices\"' >&2 ;;",
        f"  'cdi generate'*) echo 'level=error msg=\"failed to generate CDI spec: {no_gpu}\"' >&2; exit 1 ;;",
        "  *) echo 'stand-in nvidia-ctk: no answer for these arguments' >&2; exit 64 ;;",
        "esac",
    )
    runtime = _script(f"echo 'NVIDIA Container Runtime version {plain}'")
    return (
        Package("libnvidia-container1", version, "libc6"),
        Package("libnvidia-container-tools", version, f"libnvidia-container1 (= {version})"),
        Package(
            "nvidia-container-toolkit-base",
            version,
            "libc6",
            files={
                "usr/bin/nvidia-ctk": ctk,
                "usr/bin/nvidia-cdi-hook": runtime,
                "usr/bin/nvidia-container-runtime": runtime,
                "lib/systemd/system/nvidia-cdi-refresh.service": File(
                    "[Unit]\nDescription=Refresh NVIDIA CDI specification file\n"
                    "ConditionPathExists=/usr/bin/nvidia-smi\n"
                    "\n[Service]\nType=oneshot\nEnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env\n"
                    "ExecStart=/usr/bin/nvidia-ctk cdi generate\n\n[Install]\nWantedBy=multi-user.target\n"
                ),
                "lib/systemd/system/nvidia-cdi-refresh.path": File(
                    "[Unit]\nDescription=Trigger CDI refresh on NVIDIA driver install / uninstall events\n"
                    "\n[Path]\nPathChanged=/lib/modules/%v/modules.dep\nPathChanged=/usr/bin/nvidia-ctk\n"
                    "\n[Install]\nWantedBy=multi-user.target\n"
                ),
            },
        ),
        Package(
            "nvidia-container-toolkit",
            version,
            f"nvidia-container-toolkit-base (= {version}), libnvidia-container-tools (= {version})",
            files={"usr/bin/nvidia-container-runtime-hook": runtime},
        ),
    )


def _cuda(distro: str, key: str) -> Repository:
    base = f"compute/cuda/repos/{distro}/{nvidia_arch()}"
    source = (
        "deb [signed-by=/usr/share/keyrings/cuda-archive-keyring.gpg] "
        f"https://developer.download.nvidia.com/{base}/ /\n"
    )
    keyring = Package(
        "cuda-keyring",
        "1.1-1",
        architecture="all",
        files={
            "usr/share/keyrings/cuda-archive-keyring.gpg": File(KEYRING),
            f"etc/apt/sources.list.d/cuda-{distro}-{nvidia_arch()}.list": File(source),
        },
    )
    return Repository(
        host="developer.download.nvidia.com",
        path=base,
        origin="NVIDIA",
        label="NVIDIA CUDA",
        packages=(keyring, *driver.packages_of((*driver.VERSIONS, driver.BROKEN))),
        armored_keys=(f"{base}/{key}",),
        binary_keys=(f"{base}/cuda-archive-keyring.gpg",),
    )


REPOSITORIES: tuple[Repository, ...] = (
    _cuda("debian12", "3bf863cc.pub"),
    _cuda("debian13", "8793F200.pub"),
    # A mirror that has dropped all but the newest version, as archives do.
    Repository(
        host="mirror.gpufleet.test",
        path="pruned/debian12",
        origin="NVIDIA",
        label="NVIDIA CUDA",
        packages=driver.packages_of(driver.VERSIONS[-1:]),
        armored_keys=("pruned/debian12/key.asc",),
    ),
    Repository(
        host="nvidia.github.io",
        path=f"libnvidia-container/stable/deb/{debian_arch()}",
        origin="NVIDIA",
        label="NVIDIA Container Toolkit",
        # Two versions, so that pins and upgrades have something to choose from.
        packages=(*_toolkit("1.20.0-1"), *_toolkit("1.20.1-1")),
        armored_keys=("libnvidia-container/gpgkey",),
    ),
)


class Signer:
    """A throw-away OpenPGP key."""

    def __init__(self, name: str) -> None:
        # gpg's agent socket must have a short path, so not in the cache.
        self.home = tempfile.mkdtemp(prefix="gpg-")
        self._gpg("--quick-gen-key", f"{name} <tests@gpufleet.test>", "ed25519", "sign", "never")
        colons = self._gpg("--with-colons", "--list-keys").splitlines()
        self.fingerprint = next(line.split(":")[9] for line in colons if line.startswith("fpr:"))

    def _gpg(self, *words: str | Path) -> str:
        return run(["gpg", "--homedir", self.home, "--batch", "--yes", "--quiet", "--passphrase", "", *words])

    def export(self, target: Path, *, armor: bool) -> None:
        """Write the public key."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._gpg(*(["--armor"] if armor else []), "--output", target, "--export")

    def sign(self, release: Path) -> None:
        """Sign a Release file both ways that apt knows."""
        self._gpg("--output", release.with_name("InRelease"), "--clearsign", release)
        self._gpg("--armor", "--output", release.with_name("Release.gpg"), "--detach-sign", release)

    def close(self) -> None:
        """Stop the agent and forget the key."""
        run(["gpgconf", "--homedir", self.home, "--kill", "all"])
        shutil.rmtree(self.home, ignore_errors=True)


def _write(path: Path, content: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)


def _build(package: Package, keyring: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        _write(tree / "DEBIAN/control", package.control(), 0o644)
        for name, script in package.scripts.items():
            _write(tree / "DEBIAN" / name, script, 0o755)
        for path, file in package.files.items():
            _write(tree / path, file.content, file.mode)
            if file.content == KEYRING:
                shutil.copyfile(keyring, tree / path)
        for folder in (tree, *(each for each in tree.rglob("*") if each.is_dir())):
            folder.chmod(0o755)
        name = f"{package.name}_{package.version}_{package.architecture or debian_arch()}.deb"
        run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", tree, target / name])


def make(www: Path, signer: Signer) -> None:
    """Make every repository of the table under `www/<host>/`.

    Raises:
        HostsError: two repositories claim the same place.
    """
    need("apt-ftparchive", "dpkg-deb", "gpg")
    keyring = www.parent / "keyring.gpg"
    signer.export(keyring, armor=False)
    places = [(repository.host, repository.path) for repository in REPOSITORIES]
    if len(set(places)) < len(places):
        raise HostsError(f"two repositories in the table have the same address: {places}.")
    for repository in REPOSITORIES:
        flat = www / repository.host / repository.path
        flat.mkdir(parents=True)
        for package in repository.packages:
            _build(package, keyring, flat)
        _index(repository, flat)
        signer.sign(flat / "Release")
        for path in repository.armored_keys:
            signer.export(www / repository.host / path, armor=True)
        for path in repository.binary_keys:
            signer.export(www / repository.host / path, armor=False)
    keyring.unlink()


def _index(repository: Repository, flat: Path) -> None:
    packages = run(["apt-ftparchive", "packages", "."], cwd=flat)
    (flat / "Packages").write_text(packages)
    (flat / "Packages.gz").write_bytes(gzip.compress(packages.encode(), mtime=0))
    fields = {"Origin": repository.origin, "Label": repository.label, "Architectures": f"{debian_arch()} all"}
    options = [word for key, value in fields.items() for word in ("-o", f"APT::FTPArchive::Release::{key}={value}")]
    release = run(["apt-ftparchive", *options, "release", "."], cwd=flat)
    (flat / "Release").write_text(release)
