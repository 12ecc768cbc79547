"""Where a driver's packages come from: repositories with their keys, and the package names of each source.

Sources, read on 2026-11-22: the archives of Debian 12 and 13 and of Ubuntu 22.04, 24.04 and 26.04 themselves; NVIDIA's
driver installation guides 610 to 620 (per-distribution chapters, compute-only sets, module streams, version locking);
key files and fingerprints from NVIDIA's repository as at least two independent public files quote them. A key or
fingerprint that was not seen is None: the plan then refuses, and never guesses.
"""

from __future__ import annotations

from typing import NamedTuple

NVIDIA, DISTRIBUTION = "nvidia", "distribution"
BASE_URL = "https://developer.download.nvidia.com/compute/cuda/repos"
# The folder of an architecture's packages. NVIDIA's aarch64 folders are the small ones for Jetson.
ARCHITECTURE_FOLDERS = {"x86_64": "x86_64", "aarch64": "sbsa"}
DEB_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Repository(NamedTuple):
    """NVIDIA's repository for one distribution release."""

    folder: str
    key: str | None
    fingerprint: str | None
    first_branch: int = 570  # the oldest that was seen there under the names below


_RHEL_9 = Repository("rhel9", "D42D0685.pub", "610C7B14E068A878070DA4E99CD0A493D42D0685")
_RHEL_10 = Repository("rhel10", "CDF6BA43.pub", None)
_EB693B30 = "EB693B3035CD5710E231E123A4B469963BF863CC"
REPOSITORIES: dict[tuple[str, str], Repository] = {
    ("debian", "12"): Repository("debian12", "3bf863cc.pub", _EB693B30),
    ("debian", "13"): Repository("debian13", "8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200", 580),
    ("ubuntu", "22.04"): Repository("ubuntu2204", "3bf863cc.pub", _EB693B30),
    ("ubuntu", "24.04"): Repository("ubuntu2404", "3bf863cc.pub", _EB693B30),
    ("ubuntu", "26.04"): Repository("ubuntu2604", None, None),
    **{(name, "9"): _RHEL_9 for name in ("rhel", "rocky", "almalinux", "centos", "ol")},
    **{(name, "10"): _RHEL_10 for name in ("rhel", "rocky", "almalinux", "centos", "ol")},
}
# The binary keyring that lies in every one of NVIDIA's deb repositories, for one whose key's name was not seen.
DEB_KEYRING = "cuda-archive-keyring.gpg"
# Keys that are bound by SHA-1, and the first releases whose apt checks signatures by sqv, which has refused these since
# 2026-02-01.
SHA1_BOUND = (_EB693B30,)
SQV_RELEASES = (("debian", "13"),)

# What each release's own archive has: branch -> the components it lies in beside main.
_DEBIAN_COMPONENTS = ("contrib", "non-free", "non-free-firmware")
OWN_BRANCHES: dict[tuple[str, str], dict[int, tuple[str, ...]]] = {
    ("debian", "12"): {535: _DEBIAN_COMPONENTS},
    ("debian", "13"): {550: _DEBIAN_COMPONENTS},
    ("ubuntu", "22.04"): {
        580: ("restricted",),
        595: ("restricted", "multiverse"),
        610: ("restricted", "multiverse"),
        615: ("restricted", "multiverse"),
    },
    ("ubuntu", "24.04"): {
        580: ("restricted",),
        595: ("restricted", "multiverse"),
        610: ("restricted", "multiverse"),
        615: ("restricted", "multiverse"),
    },
    ("ubuntu", "26.04"): {
        580: ("restricted",),
        595: ("restricted",),
        610: ("restricted", "multiverse"),
        615: ("restricted", "multiverse"),
    },
}
# Ubuntu keeps these names as transitional packages that bring another branch.
UBUNTU_TRANSITIONAL = {535: 580, 570: 580, 590: 595}
# Branches of which Ubuntu has the server variant (another build, without the parts for desktops).
UBUNTU_SERVER = (580, 595, 615)
# Branches whose Fabric Manager and IMEX Ubuntu has; nvlsm it has not.
UBUNTU_FABRIC = (580, 595, 615)
# Ubuntu's kernel meta packages -> the flavour of the signed modules for them; None: there are none.
UBUNTU_MODULE_FLAVOURS = (
    "generic",
    "generic-64k",
    "generic-hwe-22.04",
    "generic-hwe-24.04",
    "generic-hwe-26.04",
    "lowlatency",
    "lowlatency-hwe-22.04",
    "lowlatency-hwe-24.04",
    "aws",
    "azure",
    "gcp",
    "oracle",
    "nvidia",
)
# The kernel of a virtual machine's image is the generic one without its drivers.
UBUNTU_SAME_KERNEL = {
    "virtual": "generic",
    "virtual-hwe-22.04": "generic-hwe-22.04",
    "virtual-hwe-24.04": "generic-hwe-24.04",
    "virtual-hwe-26.04": "generic-hwe-26.04",
}

# NVIDIA's names on Ubuntu carry the branch up to here, and none above.
LAST_SUFFIXED = 580
# Fabric Manager's name in NVIDIA's repositories carries the branch up to here.
LAST_SUFFIXED_FABRIC = 575

# (set, flavour) -> packages. {b} is the branch suffix ("-580" or nothing), {s} Ubuntu's "-580-server" or "-580".
NVIDIA_DEBIAN: dict[tuple[str, str], tuple[str, ...]] = {
    ("compute", "open"): ("nvidia-kernel-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced"),
    ("compute", "proprietary"): ("nvidia-kernel-dkms", "nvidia-driver-cuda", "nvidia-persistenced"),
    ("full", "open"): ("nvidia-kernel-open-dkms", "nvidia-open", "nvidia-persistenced"),
    ("full", "proprietary"): ("nvidia-kernel-dkms", "cuda-drivers", "nvidia-persistenced"),
}
NVIDIA_UBUNTU: dict[tuple[str, str], tuple[str, ...]] = {
    ("compute", "open"): ("nvidia-dkms{b}-open", "libnvidia-compute{b}", "nvidia-utils{b}", "nvidia-persistenced"),
    ("compute", "proprietary"): ("nvidia-dkms{b}", "libnvidia-compute{b}", "nvidia-utils{b}", "nvidia-persistenced"),
    ("full", "open"): ("nvidia-dkms{b}-open", "nvidia-open{b}", "nvidia-utils{b}", "nvidia-persistenced"),
    ("full", "proprietary"): ("nvidia-dkms{b}", "cuda-drivers{b}", "nvidia-utils{b}", "nvidia-persistenced"),
}
NVIDIA_RHEL: dict[tuple[str, str], tuple[str, ...]] = {
    ("compute", "open"): ("kmod-nvidia-open-dkms", "nvidia-driver-cuda", "nvidia-persistenced"),
    ("compute", "proprietary"): ("kmod-nvidia-latest-dkms", "nvidia-driver-cuda", "nvidia-persistenced"),
    ("full", "open"): ("kmod-nvidia-open-dkms", "nvidia-open", "nvidia-persistenced"),
    ("full", "proprietary"): ("kmod-nvidia-latest-dkms", "cuda-drivers", "nvidia-persistenced"),
}
OWN_DEBIAN: dict[tuple[str, str], tuple[str, ...]] = {
    ("compute", "open"): ("nvidia-open-kernel-dkms", "libcuda1", "nvidia-smi"),
    ("compute", "proprietary"): ("nvidia-kernel-dkms", "libcuda1", "nvidia-smi"),
    ("full", "open"): ("nvidia-open-kernel-dkms", "nvidia-driver", "libcuda1", "nvidia-smi"),
    ("full", "proprietary"): ("nvidia-kernel-dkms", "nvidia-driver", "libcuda1", "nvidia-smi"),
}
# Ubuntu's user space; the kernel modules come before it, by kernel flavour or by DKMS.
OWN_UBUNTU: dict[tuple[str, str], tuple[str, ...]] = {
    ("compute", "open"): ("nvidia-headless-no-dkms{s}-open", "nvidia-utils{s}"),
    ("compute", "proprietary"): ("nvidia-headless-no-dkms{s}", "nvidia-utils{s}"),
    ("full", "open"): ("nvidia-driver{s}-open", "nvidia-utils{s}"),
    ("full", "proprietary"): ("nvidia-driver{s}", "nvidia-utils{s}"),
}
# Debian's own packages build the module under another name than everyone else, and load it under the alias `nvidia`.
DEBIAN_MODULES = {"proprietary": "nvidia-current", "open": "nvidia-current-open"}

# Installed packages of Debian's own that NVIDIA's cannot stand beside, and the reverse. There, nvidia-driver-cuda has
# nvidia-smi inside. A host moves from one source to the other in one transaction, the rest under its own name.
ONLY_DEBIAN = ("nvidia-open-kernel-dkms", "nvidia-open-kernel-support", "nvidia-smi")
ONLY_NVIDIA_DEBIAN = ("nvidia-kernel-open-dkms", "nvidia-driver-cuda", "nvidia-open", "cuda-drivers")

# NVIDIA's newer packages need this DKMS, and its repository brings it; what the releases have themselves.
DKMS_FLOOR = "3.1.8"
DKMS_FLOOR_FROM = 580
DKMS_OF: dict[tuple[str, str], str] = {
    ("debian", "12"): "3.0.10",
    ("debian", "13"): "3.2.2",
    ("ubuntu", "22.04"): "2.8.7",
    ("ubuntu", "24.04"): "3.0.11",
    ("ubuntu", "26.04"): "3.2.2",
}

# Those of DKMS_OF that are below the floor.
DKMS_TOO_OLD = ("3.0.10", "2.8.7", "3.0.11")

# A driver's packages for pins, as glob(7) has them. The container toolkit's names begin alike and are left out, as it
# has a role and a repository of its own; so are CUDA's, GPUDirect Storage's and cuDNN's.
DRIVER_GLOBS = (
    "cuda-drivers*",
    "firmware-nvidia-*",
    "libcuda1*",
    "libcudadebugger1*",
    "libegl-nvidia*",
    "libgl1-nvidia*",
    "libgles-nvidia*",
    "libglx-nvidia*",
    "libnvcuvid1*",
    "libnvidia-[!c]*",
    "libnvidia-c[!o]*",
    "libnvidia-com*",
    "libnvoptix1*",
    "libnvsdm*",
    "libxnvctrl*",
    "nvidia-[!cfg]*",
    "nvidia-f[!s]*",
    "nvidia-compute-utils*",
    "nvlink5*",
    "xserver-xorg-video-nvidia*",
)
# The same on Ubuntu where NVIDIA's names carry the branch {b}, as Ubuntu's own do, and the few that do not.
SUFFIXED_GLOBS = (
    "cuda-drivers-{b}*",
    "libnvidia-*-{b}*",
    "nvidia-*-{b}*",
    "nvlink5-{b}*",
    "xserver-xorg-video-nvidia-{b}*",
)
UNSUFFIXED_GLOBS = (
    "libnvsdm",
    "libxnvctrl*",
    "nvidia-fabricmanager",
    "nvidia-imex",
    "nvidia-modprobe",
    "nvidia-persistenced",
    "nvidia-settings",
)
# As unattended-upgrades wants them: expressions that are matched from a name's beginning.
BLOCK = (
    r"nvidia-(?!container|docker|cuda-toolkit)",
    r"libnvidia-(?!container)",
    r"cuda-drivers",
    r"libcuda(debugger)?1",
    r"libnvcuvid1",
    r"libnvoptix1",
    r"libxnvctrl0",
    r"lib(egl|gl1|gles|glx)-nvidia",
    r"firmware-nvidia-",
    r"xserver-xorg-video-nvidia",
    r"linux-(modules|objects|signatures)-nvidia-",
    r"nvlink5",
    r"nvlsm$",
    r"libnvsdm",
)

# Own packages whose module does not build, and from which kernel on. Debian's 550 calls pci_resize_resource in its old
# form.
BUILD_FAILURES: dict[tuple[str, str, int, str], str] = {("debian", "13", 550, "open"): "6.12.107"}

# GPUs that share memory through NVSwitches which are no PCI devices of NVIDIA's: their Fabric Manager needs nvlsm.
NVLINK5_DEVICES = ("0x2901", "0x3182")  # B200, B300 SXM
# nvlsm speaks to the switches by a kernel interface of this version; the RHEL family has it in its older numbers too.
NVLINK5_KERNEL = (5, 17)
# GPUs of a rack that shares memory between nodes, by nvidia-imex.
IMEX_DEVICES = ("0x2941", "0x31c2")  # GB200, GB300

# What a first installation downloads and takes, by set, measured with Debian's packages and NVIDIA's lists of sizes.
DRIVER_BYTES = {"compute": (300_000_000, 1_100_000_000), "full": (500_000_000, 1_700_000_000)}
