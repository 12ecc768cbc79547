"""The torch channels: which wheels each brings, and which GPUs and drivers run them.

Versions, CUDA, driver floors and download sizes were measured, or read in the wheels' metadata and NVIDIA's
release notes, on 2026-11-22.
Sizes are bytes of the guide's core set (torch, transformers, datasets and the rest) per machine architecture.
Unpacked, only cu13 on x86_64 was measured (5.8 GB); the others are its ratio of unpacked to download.
"""

from __future__ import annotations

from typing import NamedTuple

GB = 1_000_000_000
MB = 1_000_000

Capability = tuple[int, int]


class Channel(NamedTuple):
    """One set of wheels that belong together."""

    name: str
    torch: str
    torchvision: str
    torchaudio: str
    cuda: str | None
    # Architectures whose wheels compute on a GPU; on the others the same versions compute on the CPU.
    gpu_architectures: tuple[str, ...]
    min_driver: int
    # The first driver branch that drives a Blackwell GPU with this CUDA.
    min_driver_blackwell: int
    min_capability: Capability
    # None: the wheels carry PTX of their newest architecture, so GPUs newer than these wheels run too.
    max_capability: Capability | None
    download_bytes: dict[str, int]
    unpacked_bytes: dict[str, int]


# In the order in which `auto` tries them: the newest first.
CHANNELS: tuple[Channel, ...] = (
    Channel(
        name="cu13",
        torch="2.14.1",
        torchvision="0.29.2",
        torchaudio="2.11.0",
        cuda="13.0",
        gpu_architectures=("x86_64", "aarch64"),
        min_driver=580,
        min_driver_blackwell=580,
        min_capability=(7, 5),
        max_capability=None,
        download_bytes={"x86_64": 3185 * MB, "aarch64": 3368 * MB},
        unpacked_bytes={"x86_64": 5800 * MB, "aarch64": 6200 * MB},
    ),
    Channel(
        name="cu128",
        torch="2.10.0",
        torchvision="0.25.0",
        torchaudio="2.10.0",
        cuda="12.8",
        gpu_architectures=("x86_64",),
        min_driver=525,
        min_driver_blackwell=570,
        min_capability=(7, 0),
        max_capability=(12, 0),
        download_bytes={"x86_64": 4314 * MB, "aarch64": 330 * MB},
        unpacked_bytes={"x86_64": 7900 * MB, "aarch64": 1400 * MB},
    ),
    Channel(
        name="seed",
        torch="2.6.0",
        torchvision="0.21.0",
        torchaudio="2.6.0",
        cuda="12.4",
        gpu_architectures=("x86_64",),
        min_driver=525,
        min_driver_blackwell=570,
        min_capability=(5, 0),
        max_capability=(9, 0),
        download_bytes={"x86_64": 3246 * MB, "aarch64": 280 * MB},
        unpacked_bytes={"x86_64": 5950 * MB, "aarch64": 1200 * MB},
    ),
)

# On wish only, as its wheels are not on the default index.
CPU_CHANNEL = Channel(
    name="cpu",
    torch="2.14.1+cpu",
    torchvision="0.29.2+cpu",
    torchaudio="2.11.0+cpu",
    cuda=None,
    gpu_architectures=(),
    min_driver=0,
    min_driver_blackwell=0,
    min_capability=(0, 0),
    max_capability=None,
    download_bytes={"x86_64": 350 * MB, "aarch64": 330 * MB},
    unpacked_bytes={"x86_64": 1500 * MB, "aarch64": 1400 * MB},
)

CHANNEL_NAMES: tuple[str, ...] = ("auto", *(channel.name for channel in CHANNELS), CPU_CHANNEL.name)

# Download of each optional group beyond the core set, and what it takes unpacked.
GROUPS: dict[str, tuple[int, int]] = {
    "dev": (30 * MB, 100 * MB),
    "datascience": (20 * MB, 70 * MB),
    "notebook": (30 * MB, 110 * MB),
    "tracking": (45 * MB, 150 * MB),
    "profiling": (30 * MB, 90 * MB),
    "security": (15 * MB, 60 * MB),
}

# uv's own program and its CPython 3.12 build.
UV_BYTES = (25 * MB, 60 * MB)
PYTHON_BYTES = (35 * MB, 130 * MB)
