# Copyright: the gpufleet.host contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The one catalogue of environment variables.

Every file that sets a variable on a host or in a container is rendered from this table, so that a login shell,
a systemd unit, a container and uv cannot disagree. A value is text with these placeholders:

``<home>``                the user's home: ``$HOME`` on the host, the container user's home in a container
``<cache_root>``          the shared tree of the role ml_cache
``<threads>``             CPU threads per GPU, from the plan
``<cores>``               all CPU cores the host may use, from the plan
``<notebook_threads>``    at most 4, so that several notebooks fit on one host
``<dataloader_workers>``  from the plan
``<ca_bundle>``           the host's bundle of trusted certificates; empty when no site certificate is configured

``None`` means: not set. A profile that says ``None`` unsets the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional

SCOPES = ("login", "user_systemd", "unit", "container", "uv_toml")
"""Where a variable goes: members' login shells and systemd user managers, system units, containers, uv.toml."""

HOST = ("login", "user_systemd", "unit")
EVERYWHERE = (*HOST, "container")
CONTAINER = ("container",)
# uv reads its system file for every user, sudo, cron and unit; a variable as well would beat a project's own uv.toml.
UV_FILE = ("uv_toml", "container")

PROFILES: Mapping[str, str] = {
    "seed": "every literal value of the environment guide; what is not literal has a deviation id",
    "training": "the default: threads derived from the host, an allocator that fragments less, NCCL that reports",
    "inference": "all cores for one process, no tokenizer threads beside them",
    "notebook": "few threads, so that several notebooks share a host",
    "debug": "errors at the line that caused them; slow",
    "reproducible": "the same numbers on every run and host; slower",
    "offline": "no library asks the network",
}

Value = Optional[str]


@dataclass(frozen=True)
class Variable:
    """One variable: the guide's literal, our value, and why they differ.

    ``seed`` is the guide's text as it stands; ``default`` and ``profiles`` say what is rendered, ``container``
    what a container gets instead. ``pattern`` is what an override must match in full, ``hint`` says so in words.
    ``follows`` names the variable whose override counts here too.
    """

    name: str
    why: str
    default: Value = None
    seed: Value = None
    scopes: tuple[str, ...] = EVERYWHERE
    profiles: Mapping[str, Value] = field(default_factory=dict)
    container: Value = None
    deviation: str | None = None
    pattern: str | None = None
    hint: str = ""
    follows: str | None = None
    aliases: tuple[str, ...] = ()
    uv_key: str | None = None


COUNT = {"pattern": r"[1-9][0-9]{0,3}", "hint": "a number from 1 to 9999"}
SWITCH = {"pattern": r"0|1|true|false", "hint": "0 or 1"}

# One number for every pool: torch takes MKL over OMP, numpy takes OpenBLAS, and unequal pools oversubscribe the CPU.
THREAD_PROFILES: Mapping[str, Value] = {
    "seed": "4",
    "inference": "<cores>",
    "notebook": "<notebook_threads>",
    "reproducible": "4",
}


def _threads(name: str, why: str, follows: str | None = "OMP_NUM_THREADS") -> Variable:
    return Variable(
        name=name,
        seed="4",
        default="<threads>",
        profiles=THREAD_PROFILES,
        deviation="D-14",
        follows=follows,
        why=why,
        pattern=COUNT["pattern"],
        hint=COUNT["hint"],
    )


def _only(profile: str, name: str, value: str, why: str) -> Variable:
    return Variable(name=name, profiles={profile: value}, why=why)


CATALOG: tuple[Variable, ...] = (
    # The guide: Core Python Settings
    Variable(
        name="PYTHONDONTWRITEBYTECODE",
        seed="1",
        default="1",
        why="No __pycache__ in projects. Costs nothing because the venv is compiled when it is installed "
        "(UV_COMPILE_BYTECODE); never set for root, whose imports would slow down threefold.",
    ),
    Variable(
        name="PYTHONUNBUFFERED",
        seed="1",
        default="1",
        why="Logs appear when they are written, and are complete after a crash.",
    ),
    Variable(name="PYTHONFAULTHANDLER", seed="1", default="1", why="A stack trace on SIGSEGV and SIGABRT."),
    Variable(
        name="PYTHONHASHSEED",
        seed="random",
        default="random",
        profiles={"debug": "0", "reproducible": "0"},
        pattern=r"random|[0-9]{1,10}",
        hint="random or a number from 0 to 4294967295: Python does not start with anything else",
        why="CPython's own default, named because the guide names it; a fixed seed makes set order repeat.",
    ),
    # The guide: Performance Tuning
    _threads("OPENBLAS_NUM_THREADS", "numpy's and scipy's pool; OpenBLAS ignores the CFS quota of a container."),
    _threads("MKL_NUM_THREADS", "torch takes it over OMP_NUM_THREADS, so the two must be equal."),
    _threads("NUMEXPR_NUM_THREADS", "numexpr's pool, used by pandas where it is installed."),
    _threads(
        "OMP_NUM_THREADS",
        "torch's CPU pool. Per GPU, because torchrun starts one process a GPU and keeps a value that is set. "
        "Never host-wide: GNU nproc obeys it, and every build would slow down.",
        follows=None,
    ),
    _threads("TORCH_NUM_THREADS", "Not read by torch (torch.get_num_threads() follows OMP); some programs read it."),
    Variable(
        name="CUDA_VISIBLE_DEVICES",
        seed="all",
        profiles={"seed": None},
        deviation="D-1",
        pattern=r"([0-9]+|GPU-[0-9A-Za-z-]+|MIG-[0-9A-Za-z/-]+)(,([0-9]+|GPU-[0-9A-Za-z-]+|MIG-[0-9A-Za-z/-]+))*",
        hint="GPU indices or GPU-/MIG- names, with commas. Every GPU is visible when it is unset, and a word such as "
        "'all' hides every GPU",
        why="'all' is no device: CUDA and torch read it as an empty list and see no GPU. Unset means every GPU; "
        "the word belongs to NVIDIA_VISIBLE_DEVICES.",
    ),
    Variable(
        name="CUDA_DEVICE_ORDER",
        default="PCI_BUS_ID",
        pattern=r"PCI_BUS_ID|FASTEST_FIRST",
        hint="PCI_BUS_ID or FASTEST_FIRST",
        why="GPU 0 is the same card for CUDA, torch and nvidia-smi; CUDA's own order is fastest first.",
    ),
    Variable(
        name="PYTORCH_CUDA_ALLOC_CONF",
        seed="max_split_size_mb:128",
        profiles={"seed": "max_split_size_mb:128", "training": "expandable_segments:True"},
        aliases=("PYTORCH_ALLOC_CONF",),
        deviation="D-16",
        why="expandable_segments fragments less; a split size costs speed and is torch's last resort against "
        "out-of-memory. This name works in every torch 2, PYTORCH_ALLOC_CONF only in newer ones.",
    ),
    Variable(
        name="NVIDIA_VISIBLE_DEVICES",
        default="all",
        scopes=CONTAINER,
        deviation="D-1",
        why="Every GPU inside a container: read by the container runtime only. What the guide meant by "
        "CUDA_VISIBLE_DEVICES=all.",
    ),
    Variable(
        name="NVIDIA_DRIVER_CAPABILITIES",
        default="compute,utility",
        scopes=CONTAINER,
        why="CUDA and nvidia-smi inside a container, and no display libraries.",
    ),
    Variable(
        name="ML_DATALOADER_WORKERS",
        default="<dataloader_workers>",
        pattern=r"[0-9]{1,4}",
        hint="a number from 0 to 9999",
        why="Our own name, read by no library: the num_workers that fits this host, for "
        "DataLoader(num_workers=int(os.environ['ML_DATALOADER_WORKERS'])).",
    ),
    # The guide: ML Framework Caches
    Variable(
        name="HF_HOME",
        seed="/home/vscode/.cache/huggingface",
        default="<home>/.cache/huggingface",
        deviation="D-9",
        why="Private, because it holds the token and downloaded code; the guide's path in a container. "
        "What is shared has variables of its own.",
    ),
    Variable(
        name="HF_HUB_CACHE",
        default="<cache_root>/cache/huggingface/hub",
        container="<home>/.cache/huggingface/hub",
        profiles={"seed": "<home>/.cache/huggingface/hub"},
        deviation="D-9",
        aliases=("HUGGINGFACE_HUB_CACHE",),
        why="Models are downloaded once for all members; their tokens stay private.",
    ),
    Variable(
        name="HF_DATASETS_CACHE",
        default="<cache_root>/cache/huggingface/datasets",
        container="<home>/.cache/huggingface/datasets",
        profiles={"seed": "<home>/.cache/huggingface/datasets"},
        deviation="D-9",
        why="Prepared datasets are shared as the models are.",
    ),
    Variable(
        name="HF_XET_CACHE",
        default="<cache_root>/cache/huggingface/xet",
        container="<home>/.cache/huggingface/xet",
        profiles={"seed": "<home>/.cache/huggingface/xet"},
        deviation="D-9",
        why="The chunks behind the hub cache, beside it so that they are shared too.",
    ),
    Variable(
        name="HF_TOKEN_PATH",
        default="<home>/.cache/huggingface/token",
        container="<home>/.config/huggingface/token",
        deviation="D-9",
        why="A token stays in the user's home even when the user points HF_HOME at a shared directory; "
        "in a container it lies outside the cache volume.",
    ),
    Variable(
        name="TRANSFORMERS_CACHE",
        seed="/home/vscode/.cache/huggingface",
        profiles={"seed": "<home>/.cache/huggingface/hub"},
        deviation="D-2",
        why="Gone in transformers 5; in 4 the guide's value keeps a second copy of each model beside the hub's. "
        "The profile seed gives it the hub's directory.",
    ),
    Variable(
        name="TORCH_HOME",
        seed="/home/vscode/.cache/torch",
        default="<home>/.cache/torch",
        why="torch.hub's code and list of trusted repositories are one user's decision; checkpoints alone are shared.",
    ),
    Variable(
        name="KAGGLE_CONFIG_DIR",
        seed="/home/vscode/.kaggle",
        default="<home>/.kaggle",
        deviation="D-10",
        why="Holds a key: one directory for each user, mode 0700.",
    ),
    Variable(
        name="TORCHINDUCTOR_CACHE_DIR",
        default="<home>/.cache/torchinductor",
        why="Compiled code that will be run: private, and kept over a reboot (torch's default is in /tmp).",
    ),
    Variable(
        name="TRITON_CACHE_DIR",
        default="<home>/.cache/triton",
        why="Compiled code that will be run: private.",
    ),
    # The guide: uv Configuration
    Variable(
        name="UV_LINK_MODE",
        seed="copy",
        default="copy",
        scopes=UV_FILE,
        uv_key="link-mode",
        pattern=r"copy|clone|hardlink|symlink",
        hint="copy, clone, hardlink or symlink",
        why="With hard links an edit in one venv changes the cache and every other venv.",
    ),
    Variable(
        name="UV_COMPILE_BYTECODE",
        seed="1",
        default="1",
        scopes=UV_FILE,
        uv_key="compile-bytecode",
        pattern=SWITCH["pattern"],
        hint=SWITCH["hint"],
        why="Imports are three times as fast; PYTHONDONTWRITEBYTECODE is only harmless with it.",
    ),
    Variable(
        name="UV_CONCURRENT_DOWNLOADS",
        seed="10",
        default="10",
        scopes=UV_FILE,
        uv_key="concurrent-downloads",
        pattern=COUNT["pattern"],
        hint=COUNT["hint"],
        why="uv's own default of 50 fills a shared link.",
    ),
    Variable(
        name="UV_HTTP_TIMEOUT",
        seed="300",
        default="300",
        pattern=COUNT["pattern"],
        hint=COUNT["hint"],
        why="Wheels of 500 MB on a slow link, in seconds. uv takes it as a variable only: in uv.toml it is an error.",
    ),
    Variable(
        name="UV_HTTP_RETRIES",
        default="5",
        pattern=r"[0-9]{1,2}",
        hint="a number from 0 to 99",
        why="One dropped connection does not cost a 3 GB installation; uv's own default is 3.",
    ),
    Variable(
        name="UV_CACHE_DIR",
        default="<home>/.cache/uv",
        scopes=CONTAINER,
        why="The guide's uv cache volume is mounted there. On the host uv's default, the user's own cache, is right.",
    ),
    # What the profiles add
    _only("training", "NCCL_DEBUG", "WARN", "NCCL says why a collective failed."),
    _only("training", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "1", "A dead rank ends the job; without it the rest hangs."),
    _only("inference", "TOKENIZERS_PARALLELISM", "false", "No thread pool of its own beside the server's processes."),
    _only("debug", "CUDA_LAUNCH_BLOCKING", "1", "The Python line that launched a failing kernel is in the traceback."),
    _only("debug", "PYTHONDEVMODE", "1", "Python's own run-time checks and resource warnings."),
    _only("debug", "TORCH_SHOW_CPP_STACKTRACES", "1", "The C++ frames of a torch error."),
    _only(
        "reproducible", "CUBLAS_WORKSPACE_CONFIG", ":4096:8", "cuBLAS repeats its results only with a fixed workspace."
    ),
    _only("offline", "HF_HUB_OFFLINE", "1", "huggingface_hub answers from the cache, at once."),
    _only("offline", "TRANSFORMERS_OFFLINE", "1", "The same for transformers' own checks."),
    _only("offline", "HF_DATASETS_OFFLINE", "1", "The same for datasets."),
    # Not in uv.toml: that file also rules the installation of this host's Python.
    _only("offline", "UV_OFFLINE", "1", "uv resolves from its cache."),
    _only("offline", "WANDB_MODE", "offline", "Runs are kept on disk until `wandb sync`."),
    # What a site configures
    Variable(
        name="HF_ENDPOINT",
        why="A mirror of the Hugging Face hub, when the site has one.",
    ),
    Variable(
        name="SSL_CERT_FILE",
        default="<ca_bundle>",
        scopes=HOST,
        why="Python and uv trust the site's certificate authority too. Only set where one is configured.",
    ),
    Variable(
        name="REQUESTS_CA_BUNDLE",
        default="<ca_bundle>",
        scopes=HOST,
        why="The same for programs that use requests, which brings its own list of authorities.",
    ),
)

BY_NAME: Mapping[str, Variable] = {variable.name: variable for variable in CATALOG}
ALIASES: Mapping[str, str] = {alias: variable.name for variable in CATALOG for alias in variable.aliases}


def profile_value(variable: Variable, profile: str) -> tuple[bool, Value]:
    """Say whether ``profile`` sets ``variable``, and to what.

    The profile seed sets each variable that the guide names, also where our default is the same: a second
    profile that contradicts the guide then meets a conflict, and not a silent change.
    """
    if profile in variable.profiles:
        return True, variable.profiles[profile]
    if profile == "seed" and variable.seed is not None:
        return True, variable.default
    return False, None
