"""Download models into the cache that HF_HUB_CACHE names: warm_models.py [--check] REPO@REVISION ...

Runs in an environment with huggingface_hub. Prints one JSON object: which models were missing or grew. With --check it
only says which ones the cache does not have, without the network.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def blobs(repo: str) -> set[tuple[str, int]]:
    """What the cache has of a model: names and sizes."""
    directory = Path(os.environ["HF_HUB_CACHE"], "models--" + repo.replace("/", "--"))
    return {(str(path), path.lstat().st_size) for path in directory.rglob("*") if path.is_file() or path.is_symlink()}


def is_there(repo: str, revision: str) -> bool:
    """Whether any snapshot of the revision is in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(repo, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def main(arguments: list[str]) -> int:
    """Download or look, and tell."""
    check = "--check" in arguments
    changed = []
    for model in arguments:
        if model == "--check":
            continue
        repo, _, revision = model.rpartition("@")
        if check:
            new = not is_there(repo, revision)
        else:
            from huggingface_hub import snapshot_download

            before = blobs(repo)
            snapshot_download(repo, revision=revision)
            new = blobs(repo) != before
        if new:
            changed.append(model)
    print(json.dumps({"changed": changed}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
