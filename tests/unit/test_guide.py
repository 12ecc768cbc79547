"""The guide's verification is read whole and as it stands."""

from __future__ import annotations

import hashlib

import pytest
from guide import GUIDE, PLACES, commands

TEXT = GUIDE.read_text(encoding="utf-8")

# Exactly these, in this order: a change of the guide is a change of what is promised.
EXPECTED = [
    ('python -c "import torch; print(torch.cuda.is_available())"', "Check CUDA availability", {"torch"}),
    ('python -c "import torch; print(torch.cuda.device_count())"', "List GPU devices", {"torch"}),
    ('python -c "import torch; print(torch.cuda.get_device_properties(0))"', "GPU memory info", {"torch", "gpu"}),
    ("./dev.sh verify-setup", "Full environment validation", set()),
    ("./dev.sh benchmark", "Performance testing", {"probe"}),
    ("./dev.sh all-checks", "Code quality validation", set()),
    ("python --version", "Python and packages", set()),
    ("pip list | grep torch", "Python and packages", {"torch"}),
    ('python -c "import torch; print(torch.__version__)"', "Python and packages", {"torch"}),
    ("nvidia-smi", "GPU support", {"gpu"}),
    ('python -c "import torch; print(torch.cuda.is_available())"', "GPU support", {"torch"}),
    ("ls -la ~/.cache/", "Cache directories", set()),
    ("df -h /workspaces/torch_starter/data/", "Cache directories", set()),
]


def test_exactly_these_commands() -> None:
    assert [(found.line, found.about, set(found.needs)) for found in commands(TEXT)] == EXPECTED


def test_the_guide_is_the_users_own_byte_for_byte() -> None:
    digest = "9404d64373856686a7c874076e43144df9c31ca8fce4edb8edda5405adcc3fa3"
    assert hashlib.sha256(GUIDE.read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(("chapter", "part"), PLACES)
def test_a_guide_without_one_of_the_parts_is_refused(chapter: str, part: str) -> None:
    with pytest.raises(ValueError, match=f"no commands in '{part}' under '{chapter}'"):
        commands(TEXT.replace(f"### {part}\n", "### Something else\n"))
