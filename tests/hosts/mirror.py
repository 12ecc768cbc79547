"""The mirror: one container that answers, on the test network, for the real host names that roles download from."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

from hosts import engine, images, server
from hosts.common import HostsError, cache, step, suffix
from hosts.engine import docker, try_docker

CONTAINER = f"gpufleet-test-mirror{suffix()}"
OWN = "mirror.gpufleet.test"
NAMES = (
    OWN,
    "developer.download.nvidia.com",
    "download.docker.com",
    "github.com",
    "nvidia.github.io",
    "releases.astral.sh",
)
_START_SECONDS = 15
_SOURCES = (
    *("archives.py", "driver_packages.py", "engine_packages.py", "mirror.py", "packages.py", "pki.py", "server.py"),
    *("stand_in.py", "toolkit_packages.py"),
)
_CHECK = f"""
import ssl, urllib.request as u
c = ssl.create_default_context(cafile="/srv/mirror/tls/trusted/ca.crt")
u.urlopen("https://{OWN}/uv/downloads.json", context=c, timeout=2).read()
"""


def fingerprint() -> str:
    """Return what the mirror's content depends on, as one short word."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((here / name).read_bytes())
    uv = Path(sys.executable).with_name("uv")
    digest.update(f"{uv.stat().st_size if uv.exists() else 0} {sys.version}".encode())
    return digest.hexdigest()[:12]


def up() -> None:
    """Make sure that the mirror runs with the content it should have, and that its variables are written."""
    wanted = fingerprint()
    content = cache() / "mirror" / wanted
    if not content.is_dir():
        _make(content)
    _publish(content)
    look = '{{index .Config.Labels "gpufleet-test-mirror"}} {{.State.Running}}'
    if try_docker("container", "inspect", "-f", look, CONTAINER) == f"{wanted} true":
        return
    with step("starting the mirror"):
        _start(content)


def down() -> None:
    """Remove the mirror."""
    try_docker("rm", "-f", "-v", CONTAINER)


def _start(content: Path) -> None:
    down()
    aliases = [word for name in (*NAMES, server.UNTRUSTED) for word in ("--network-alias", name)]
    label = ["--label", "gpufleet-test=mirror", "--label", f"gpufleet-test-mirror={content.name}"]
    docker(
        *("create", "--name", CONTAINER, "--restart", "unless-stopped", "--init", *label),
        *("--network", engine.NETWORK, *aliases, _image(), "python3", "/srv/mirror/server.py"),
    )
    # Copied, not mounted: the engine may be on another machine.
    docker("cp", f"{content}/.", f"{CONTAINER}:/srv/mirror")
    docker("start", CONTAINER)
    for _ in range(_START_SECONDS * 5):
        if try_docker("exec", CONTAINER, "python3", "-c", _CHECK) is not None:
            return
        time.sleep(0.2)
    raise HostsError(f"the mirror does not answer; it says: {docker('logs', '--tail', '3', CONTAINER).strip()}")


def _image() -> str:
    """Return an image with Python: that of any test host will do."""
    made = (release.current for release in images.RELEASES.values())
    return next(image for image in made if try_docker("image", "inspect", image) is not None)


def _make(content: Path) -> None:
    """Make the content beside its place, and move it there when it is whole."""
    from hosts import archives, packages, pki  # what they import takes longer than a look that all is there

    content.parent.mkdir(parents=True, exist_ok=True)
    with step("making the mirror's content"), tempfile.TemporaryDirectory(dir=content.parent) as scratch:
        root = Path(scratch) / "content"
        www = root / "www"
        pki.make(root / "tls/trusted", "gpufleet test mirror", NAMES)
        pki.make(root / "tls/untrusted", "an authority that nobody trusts", [server.UNTRUSTED])
        shutil.copy(Path(__file__).with_name("server.py"), root / "server.py")
        recipe = hashlib.sha256(Path(archives.__file__).read_bytes()).hexdigest()[:12]
        uv = archives.uv(cache() / "archives" / recipe)
        _place(uv.archive, www / "github.com" / uv.path)
        python = archives.cpython(cache() / "archives" / recipe)
        for place in (f"github.com/{archives.STANDALONE}", f"{OWN}/python-build-standalone"):
            _place(python.archive, www / place / python.tag / python.archive.name)
        _json(www / OWN / "uv/downloads.json", python.downloads())
        _json(www / OWN / "uv/downloads-wrong-checksum.json", python.downloads("0" * 64))
        signer, stranger = packages.Signer("gpufleet test packages"), packages.Signer("a stranger")
        packages.make(www, signer, cache() / "archives")
        stranger.export(www / OWN / "keys/stranger.asc", armor=True)
        variables = {
            "apt_key_fingerprint": signer.fingerprint,
            "uv_version": uv.version,
            "uv_archive_url": f"https://github.com/{uv.path}",
            "uv_archive_checksums": {platform.machine(): uv.checksum},
            "python_version": python.version,
            "python_install_mirror": f"https://{OWN}/python-build-standalone",
            "python_downloads_json_url": f"https://{OWN}/uv/downloads.json",
            "python_downloads_json_url_wrong_checksum": f"https://{OWN}/uv/downloads-wrong-checksum.json",
            "stranger_key_url": f"https://{OWN}/keys/stranger.asc",
            "missing_url": f"https://{OWN}/missing",
            "untrusted_url": f"https://{server.UNTRUSTED}/",
        }
        signer.close()
        stranger.close()
        _json(root / "variables.json", variables)
        root.rename(content)


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.hardlink_to(source)


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def _replace(path: Path, content: bytes) -> None:
    """Write a file, at once and only when it differs: another scenario may be reading it."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(content)
    partial.rename(path)


def _publish(content: Path) -> None:
    """Write what scenarios read: the authorities that hosts shall trust, and the variables."""
    current = cache() / f"current{suffix()}"
    wanted = {"gpufleet-test-mirror.crt": (content / "tls/trusted/ca.crt").read_bytes()}
    # Where TLS to the package indexes is intercepted, the hosts need this machine's own authorities too.
    for own in sorted(Path("/usr/local/share/ca-certificates").glob("**/*.crt")):
        wanted[f"machine-{own.name}"] = own.read_bytes()
    for name, certificate in wanted.items():
        _replace(current / "ca" / name, certificate)
    for left in (current / "ca").iterdir():
        if left.name not in wanted:
            left.unlink()
    variables = json.loads((content / "variables.json").read_text())
    variables["ca_certificates"] = [str(current / "ca" / name) for name in wanted]
    _replace(current / "hosts.json", (json.dumps(variables, indent=2) + "\n").encode())
