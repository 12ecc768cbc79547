"""What the role needs of huggingface_hub, without a network: the same files in the same places."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from huggingface_hub.errors import LocalEntryNotFoundError


def snapshot_download(repo: str, revision: str, local_files_only: bool = False) -> str:
    """Write a model of one file, which says by which way it came, and a reference through whatever is there."""
    if os.access("/root", os.W_OK):
        raise RuntimeError("this is root, whom members could lead anywhere")
    base = Path(os.environ["HF_HUB_CACHE"], "models--" + repo.replace("/", "--"))
    snapshot, ref = base / "snapshots/abc", base / "refs" / revision
    if local_files_only:
        if not snapshot.exists():
            raise LocalEntryNotFoundError(repo)
        return str(snapshot)
    for directory in (base / "blobs", snapshot, ref.parent):
        directory.mkdir(parents=True, exist_ok=True)
    way = (os.environ.get("HF_ENDPOINT"), os.environ.get("REQUESTS_CA_BUNDLE"))
    (base / "blobs/blob").write_text("{} {}\n".format(*way))
    if not (snapshot / "weights").is_symlink():
        (snapshot / "weights").symlink_to("../../blobs/blob")
    with contextlib.suppress(OSError):  # as the real one does, so that no error tells of a planted link
        ref.write_text("abc")
    return str(snapshot)
