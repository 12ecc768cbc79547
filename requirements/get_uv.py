"""Get the pinned uv with nothing but Python's standard library.

A bare Debian has Python, and no pip, venv, curl or git. This takes uv's release archive, refuses it unless its
SHA-256 is the one written here, and unpacks the one binary. Proxies and ``SSL_CERT_FILE`` work as urllib and ssl
honour them.

Environment: ``UV_DOWNLOAD_URL`` (a directory that holds the archives, as for uv's own installer) and
``GPUFLEET_UV_SHA256`` (the checksum of a mirror's own archive).
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import sys
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

VERSION = "0.13.0"
# uv's own release page publishes these; two independent package recipes agree with them.
ARCHIVES = {
    "x86_64": ("uv-x86_64-unknown-linux-gnu", "1468ebd5a5541121837c5a2817b9972ba6090fa6caa3d142620850a47fb75154"),
    "aarch64": ("uv-aarch64-unknown-linux-gnu", "3ccfb6af6e242433eb552f7d9676abd5412c6595c497e990d9c8cb7b5bd4d2c3"),
}
RELEASES = "https://github.com/astral-sh/uv/releases/download"


def fail(sentence: str) -> int:
    """Say one sentence on stderr; the exit status is 1."""
    print(f"get_uv: {sentence}", file=sys.stderr)
    return 1


def unpack(archive: bytes, member: str, target: Path) -> None:
    """Write the archive's ``member`` to ``target``, executable, whole or not at all."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        binary = tar.extractfile(member)
        if binary is None:
            raise KeyError(member)
        data = binary.read()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    unfinished.write_bytes(data)
    unfinished.chmod(0o755)
    unfinished.replace(target)


def main(target: str) -> int:
    """Put uv at ``target``. 0 when it is there, 1 after one sentence."""
    machine = platform.machine()
    if machine not in ARCHIVES:
        return fail(f"no uv archive is known for {machine}; install uv {VERSION} yourself and put it on PATH")
    name, checksum = ARCHIVES[machine]
    checksum = os.environ.get("GPUFLEET_UV_SHA256", checksum)
    url = f"{os.environ.get('UV_DOWNLOAD_URL', f'{RELEASES}/{VERSION}').rstrip('/')}/{name}.tar.gz"
    if not url.startswith(("https://", "file://")):
        return fail(f"UV_DOWNLOAD_URL gives {url}, which is neither https:// nor file://")
    print(f"get_uv: fetching {url}", file=sys.stderr)
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:  # noqa: S310 # the scheme is checked above
            archive = reply.read()
    except (urllib.error.URLError, OSError) as error:
        return fail(
            f"{url} cannot be fetched ({error}); set https_proxy or SSL_CERT_FILE, set UV_DOWNLOAD_URL to a mirror, "
            f"or put uv {VERSION} on PATH"
        )
    found = hashlib.sha256(archive).hexdigest()
    if found != checksum:
        return fail(f"{url} has the SHA-256 {found}, wanted {checksum}; it was not used")
    try:
        unpack(archive, f"{name}/uv", Path(target))
    except (KeyError, tarfile.TarError) as error:
        return fail(f"{url} holds no uv binary ({error})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
