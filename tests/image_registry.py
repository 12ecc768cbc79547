"""A registry on loopback that has one image, so that a base can be named by its digest as users name theirs."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import IO

NAME = "base"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True)
class Blob:
    """A part of the archive, known by its digest."""

    offset: int
    size: int


def _digest(file: IO[bytes], blob: Blob) -> str:
    file.seek(blob.offset)
    found, left = hashlib.sha256(), blob.size
    while left:
        chunk = file.read(min(left, 1 << 20))
        found.update(chunk)
        left -= len(chunk)
    return f"sha256:{found.hexdigest()}"


def _contents(saved: Path) -> tuple[bytes, dict[str, Blob]]:
    """Return the manifest of what `docker save` wrote, and where its parts lie in the file."""
    with tarfile.open(saved) as archive:
        entry = archive.extractfile("manifest.json")
        assert entry is not None
        told = json.load(entry)[0]
        members = [archive.getmember(name) for name in [told["Config"], *told["Layers"]]]
        blobs = [Blob(member.offset_data, member.size) for member in members]
    with saved.open("rb") as file:
        named = [(_digest(file, blob), blob) for blob in blobs]
    kinds = ["container.image.v1+json"] + ["image.rootfs.diff.tar.gzip"] * (len(named) - 1)
    parts = [
        {"mediaType": f"application/vnd.docker.{kind}", "digest": digest, "size": blob.size}
        for kind, (digest, blob) in zip(kinds, named, strict=True)
    ]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]}
    return json.dumps(manifest).encode(), dict(named)


@contextmanager
def image_registry(saved: Path) -> Iterator[str]:
    """Serve the image of a file of `docker save`. Gives its name with its digest."""
    manifest, blobs = _contents(saved)
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/v2/":
                self.answer(b"{}", "application/json")
            elif self.path == f"/v2/{NAME}/manifests/{digest}":
                self.answer(manifest, MANIFEST)
            elif blob := blobs.get(self.path.rpartition("/")[2]):
                with saved.open("rb") as file:
                    file.seek(blob.offset)
                    self.answer(file.read(blob.size), "application/octet-stream")
            else:
                self.send_error(404)

        do_HEAD = do_GET  # noqa: N815  the name is http.server's

        def answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", digest)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}/{NAME}@{digest}"
    finally:
        server.shutdown()
        server.server_close()
