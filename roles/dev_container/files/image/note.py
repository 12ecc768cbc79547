"""Note what the image's environment holds: for its health check, and as a bill of materials (CycloneDX 1.5)."""

from __future__ import annotations

import importlib.metadata
import json
import sysconfig
from pathlib import Path

VENV = Path("/opt/venv")


def bill(distributions: list[tuple[str, str]]) -> dict[str, object]:
    """Return a CycloneDX document of packages, given as name and version."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": [
            {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name.lower()}@{version}"}
            for name, version in sorted(set(distributions))
        ],
    }


def main() -> None:
    """Write both files into the environment."""
    site = Path(sysconfig.get_paths()["purelib"])
    packages = sorted(path.name for path in site.glob("*.dist-info"))
    found = [(found.metadata["Name"], found.version) for found in importlib.metadata.distributions()]
    (VENV / ".gpufleet.json").write_text(json.dumps({"site": str(site), "packages": packages}) + "\n")
    (VENV / "sbom.cdx.json").write_text(json.dumps(bill(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
