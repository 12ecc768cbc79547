#!/usr/bin/env python3
"""Remove what broken downloads left in the shared cache: clean_cache.py ROOT DAYS.

Only files that no program takes for finished: `.incomplete` of the Hugging Face hub and datasets, `.partial` of
torch.hub. Blobs, snapshots and locks stay, because snapshots are links into blobs, and newer hubs share blobs between
repositories: only the newest `hf cache prune` may judge those.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PLACES = ("cache/huggingface/hub", "cache/huggingface/datasets", "cache/torch/checkpoints")
_ENDINGS = (".incomplete", ".partial")


def leftovers(root: Path, days: int, now: float) -> Iterator[Path]:
    """Yield files with such an ending that nobody has written to for so many days. Links are not followed."""
    for place in _PLACES:
        for directory, _, names in os.walk(root / place):
            for name in names:
                path = Path(directory, name)
                if name.endswith(_ENDINGS) and path.lstat().st_mtime < now - days * 86400:
                    yield path


def main() -> int:
    """Remove them and say how much that was."""
    root, days = Path(sys.argv[1]), int(sys.argv[2])
    failed = removed = freed = 0
    for path in leftovers(root, days, time.time()):
        try:
            size = path.lstat().st_size
            path.unlink()
        except OSError as error:
            print(f"{path}: {error.strerror}", file=sys.stderr)
            failed += 1
        else:
            removed += 1
            freed += size
    print(f"removed {removed} files of broken downloads, {freed / 1e9:.1f} GB")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
