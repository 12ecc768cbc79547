"""Make the repositories that no mirror has: of one address with an old and a new key, and of a key bound by SHA-1.

That of the new key is there a second time as it was a year ago: older packages, and a signature that is right.

Writes `<folder>/repositories.tar` and prints the keys' fingerprints.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tarfile
import tempfile
import time
from email.utils import formatdate
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
A_YEAR_AGO = formatdate(time.time() - 365 * 86400, usegmt=True).replace("GMT", "UTC")
sys.path.insert(0, str(PROJECT / "tests"))

from hosts import packages  # noqa: E402
from hosts.stand_in import Package  # noqa: E402


def main(folder: Path) -> None:
    """Make the archive."""
    fingerprints = {}
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        for version, name in enumerate(("weak", "old", "new"), 1):
            signer = packages.Signer(f"the {name} key", weak=name == "weak")
            fingerprints[name] = signer.fingerprint
            repository = packages.Repository("", name, "test", "test", (Package("gpufleet-proof", f"{version}"),))
            packages.make_one(repository, top / name, signer, top)
            signer.export(top / name / "key.asc", armor=True)
            if name == "new":
                earlier = packages.Repository("", "", "test", "test", (Package("gpufleet-proof", "1"),))
                packages.make_one(earlier, top / "earlier", signer, top)
                release = top / "earlier/Release"
                release.write_text(re.sub("^Date: .*", f"Date: {A_YEAR_AGO}", release.read_text(), flags=re.MULTILINE))
                signer.sign(release)
            signer.close()
        shutil.copytree(PROJECT / "tests/fixtures/keys", top / "keys")
        with tarfile.open(folder / "repositories.tar", "w") as tar:
            tar.add(top, ".")
    print(json.dumps(fingerprints))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
