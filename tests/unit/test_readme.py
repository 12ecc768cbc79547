"""The README says what the data says."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.gpufleet.host.plugins.module_utils._platforms import PLATFORMS

ROOT = Path(__file__).parents[2]


def test_the_support_table_is_the_data() -> None:
    rows = re.findall(
        r"^\| (\w+) \| ([\d., ]+) \| (tested|preview) \|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert rows == [(known.distribution, ", ".join(known.versions), known.support) for known in PLATFORMS]


def test_every_role_has_its_row_and_its_scenario() -> None:
    readme = (ROOT / "README.md").read_text()
    for role in sorted(path.name for path in (ROOT / "roles").iterdir()):
        assert f"(roles/{role})" in readme
        assert (ROOT / "molecule" / role / "molecule.yml").exists()
        assert (ROOT / "roles" / role / "README.md").exists()


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("roles/*/README.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
