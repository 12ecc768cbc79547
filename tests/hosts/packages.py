"""Stand-in packages and the signed flat repositories that carry them, in NVIDIA's layout.

A stand-in has the real name, version and dependencies, and small scripts that answer as the real tool does where a
role asks it. Add rows to `REPOSITORIES` for what a role needs; nothing else has to change.
"""

from __future__ import annotations

import gzip
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hosts import driver_packages as driver
from hosts import engine_packages as engine
from hosts import toolkit_packages as toolkit
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
    """A signed repository at `https://<host>/<path>/`, with its keys at paths of the same host."""

    host: str
    path: str
    origin: str
    label: str
    packages: tuple[Package, ...]
    armored_keys: tuple[str, ...] = ()
    binary_keys: tuple[str, ...] = ()
    suite: str = ""  # none is NVIDIA's flat layout; with one, its component `stable` stands below dists/
    # Where the real packages are that some of these wrap.
    wrapped: Callable[[Path], Path] | None = None


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
        packages=(*toolkit.packages_of("1.20.0-1"), *toolkit.packages_of("1.20.1-1")),
        armored_keys=("libnvidia-container/gpgkey",),
    ),
    Repository(
        host="download.docker.com",
        path="linux/debian",
        origin="Docker",
        label="Docker CE",
        packages=engine.packages_of("debian.12", "bookworm"),
        armored_keys=("linux/debian/gpg",),
        suite="bookworm",
        wrapped=engine.fetch,
    ),
)


class Signer:
    """A throw-away OpenPGP key, which binds itself by SHA-1 where it is weak."""

    def __init__(self, name: str, *, weak: bool = False) -> None:
        # gpg's agent socket must have a short path, so not in the cache.
        self.home = tempfile.mkdtemp(prefix="gpg-")
        bound = ["--cert-digest-algo", "SHA1"] if weak else []
        self._gpg(*bound, "--quick-gen-key", f"{name} <tests@gpufleet.test>", "ed25519", "sign", "never")
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


def _build(package: Package, keyring: Path, target: Path, wrapped: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        if package.wraps and wrapped:
            (archive,) = wrapped.glob(f"{package.wraps}_*.deb")
            run(["dpkg-deb", "-x", archive, tree])
            # Somebody's settings lie there, and only dpkg's list of such files would spare them.
            shutil.rmtree(tree / "etc", ignore_errors=True)
        _write(tree / "DEBIAN/control", package.control(), 0o644)
        for name, script in package.scripts.items():
            _write(tree / "DEBIAN" / name, script, 0o755)
        for path, file in package.files.items():
            _write(tree / path, file.content, file.mode)
            if file.content == KEYRING:
                shutil.copyfile(keyring, tree / path)
        for folder in (tree, *(each for each in tree.rglob("*") if each.is_dir())):
            folder.chmod(0o755)
        version = package.version.rpartition(":")[2]
        name = f"{package.name}_{version}_{package.architecture or debian_arch()}.deb"
        run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, target / name])


def make(www: Path, signer: Signer, archives: Path) -> None:
    """Make every repository of the table under `www/<host>/`; what was fetched for it stays in `archives`.

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
        wrapped = repository.wrapped(archives / "debian13") if repository.wrapped else None
        make_one(repository, www / repository.host / repository.path, signer, keyring, wrapped)
        for path in repository.armored_keys:
            signer.export(www / repository.host / path, armor=True)
        for path in repository.binary_keys:
            signer.export(www / repository.host / path, armor=False)
    keyring.unlink()


def make_one(repository: Repository, place: Path, signer: Signer, keyring: Path, wrapped: Path | None = None) -> None:
    """Make one repository in a folder, without its keys."""
    pool = place / "pool" if repository.suite else place
    pool.mkdir(parents=True)
    for package in repository.packages:
        _build(package, keyring, pool, wrapped)
    signer.sign(_index(repository, place, pool))


def _index(repository: Repository, place: Path, pool: Path) -> Path:
    """Write the lists of packages, and return the file that is signed."""
    top = place / "dists" / repository.suite if repository.suite else place
    lists = top / f"stable/binary-{debian_arch()}" if repository.suite else place
    lists.mkdir(parents=True, exist_ok=True)
    packages = run(["apt-ftparchive", "packages", pool.relative_to(place)], cwd=place)
    (lists / "Packages").write_text(packages)
    (lists / "Packages.gz").write_bytes(gzip.compress(packages.encode(), mtime=0))
    fields = {"Origin": repository.origin, "Label": repository.label, "Architectures": f"{debian_arch()} all"}
    if repository.suite:
        fields |= {"Suite": repository.suite, "Codename": repository.suite, "Components": "stable"}
    options = [word for key, value in fields.items() for word in ("-o", f"APT::FTPArchive::Release::{key}={value}")]
    release = run(["apt-ftparchive", *options, "release", "."], cwd=top)
    (top / "Release").write_text(release)
    return top / "Release"
