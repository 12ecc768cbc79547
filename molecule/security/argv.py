"""Keep every command line that this machine has while a file is there; a process that lives for less is not seen."""

import sys
import time
from pathlib import Path

seen: set[bytes] = set()
while not Path(sys.argv[1] + ".stop").exists():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            seen.add(path.read_bytes())
        except OSError:
            continue  # it has ended
    time.sleep(0.02)
Path(sys.argv[1]).write_bytes(b"\n".join(sorted(seen)))
