"""Is this workspace as it should be, here and now? One line for each thing that is asked: PASS, WARN, FAIL or SKIP.

Called by `./dev.sh verify-setup` with the environment's own Python, or with any other where that does not start. It
changes nothing and downloads nothing, and ends with 1 where something fails.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PASS, WARN, FAIL, SKIP = "PASS", "WARN", "FAIL", "SKIP"
GIB = 1024**3

# The guide's ranges, and the module that each package is imported by.
PACKAGES = {
    "numpy": (">=1.26,<2.0", "numpy"),
    "pandas": (">=2.0,<3.0", "pandas"),
    "scipy": (">=1.11,<2.0", "scipy"),
    "scikit-learn": (">=1.3,<2.0", "sklearn"),
    "matplotlib": (">=3.8,<4.0", "matplotlib"),
    "torch": (">=2.0,<3.0", "torch"),
    "torchvision": (">=0.15,<1.0", "torchvision"),
    "torchaudio": (">=2.0,<3.0", "torchaudio"),
    "transformers": (">=4.42,<5.0", "transformers"),
    "datasets": (">=2.19,<3.0", "datasets"),
    "accelerate": (">=0.31,<1.0", "accelerate"),
    "safetensors": (">=0.4,<1.0", "safetensors"),
    "ruff": (">=0.5.3,<1.0", ""),
    "mypy": (">=1.10,<2.0", ""),
    "pytest": (">=8.2,<9.0", "pytest"),
    "pytest-cov": (">=5.0,<6.0", "pytest_cov"),
}
# The CUDA that a channel's torch is built for.
CHANNEL_CUDA = {"cu13": "13.", "cu128": "12.8", "seed": "12.4"}
GPU_LIST = re.compile(r"([0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+)(,([0-9]+|(GPU|MIG)-[0-9A-Za-z/-]+))*")

# Imports one after the other in a process of their own: a package may kill the one that it is imported in.
IMPORTS = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
        print(json.dumps([name, ""]), flush=True)
    except BaseException as error:
        print(json.dumps([name, f"{type(error).__name__}: {error}".split("\\n")[0]]), flush=True)
"""
# Every GPU adds two numbers: to be listed is not to work.
CUDA = """
import json, torch
out = {"built": torch.version.cuda, "available": torch.cuda.is_available(), "devices": []}
for index in range(torch.cuda.device_count() if out["available"] else 0):
    assert float((torch.ones(2, device=f"cuda:{index}") * 2).sum()) == 4.0
    out["devices"].append(torch.cuda.get_device_properties(index).name)
print(json.dumps(out))
"""


@dataclass(frozen=True)
class Check:
    """What was asked, how it stands, what was found, and what to do about it."""

    name: str
    status: str
    found: str
    todo: str = ""


@dataclass(frozen=True)
class Setup:
    """Where it is asked."""

    workspace: Path
    place: str
    venv: Path
    settings: Mapping[str, Any]
    sys_root: Path = Path("/sys")
    shm: Path = Path("/dev/shm")  # noqa: S108  # nothing is written there

    @property
    def container(self) -> bool:
        """Whether this is the container."""
        return self.place == "container"

    @property
    def python(self) -> str:
        """The environment's Python."""
        return str(self.venv / "bin/python")


Answer = Iterator[Check]


def run(command: list[str], seconds: float = 60, cwd: Path | None = None) -> tuple[int, str, str]:
    """The exit status and what was said; 127 where there is no such program."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, cwd=cwd, check=False
        )
    except FileNotFoundError:
        return 127, "", f"{command[0]} was not found"
    except PermissionError:
        return 126, "", f"{command[0]} cannot be run"
    except subprocess.TimeoutExpired:
        return 124, "", f"{command[0]} gave no answer in {seconds:.0f} s"
    return done.returncode, done.stdout, done.stderr


def last_line(text: str) -> str:
    """Where programs say what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


# --- Python and its packages -----------------------------------------------------------------------------------------


def version_key(text: str) -> tuple[int, ...]:
    """The release numbers: 2.14.1+cu130 is (2, 14, 1)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def within(version: str, wished: str) -> bool:
    """Whether a version lies in a range such as `>=1.26,<2.0`."""
    key = version_key(version)
    for bound in wished.split(","):
        limit = version_key(bound.lstrip("<>="))
        width = max(len(key), len(limit))
        left, right = key + (0,) * (width - len(key)), limit + (0,) * (width - len(limit))
        if not (left >= right if bound.startswith(">=") else left < right):
            return False
    return True


def normal(name: str) -> str:
    """A package's name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """What is in the environment that runs this."""
    found: dict[str, str] = {}
    for item in importlib.metadata.distributions():
        name = item.metadata.get("Name")
        if name:
            found.setdefault(normal(name), item.version)
    return found


def dotenv(workspace: Path, name: str) -> str:
    """A value that Compose would read in .env."""
    try:
        text = (workspace / ".env").read_text(encoding="utf-8")
    except OSError:
        return ""
    values = re.findall(rf"^\s*{name}=(.*)$", text, re.MULTILINE)
    return values[-1].strip().strip("\"'") if values else ""


def applies(marker: str) -> bool:
    """Whether a requirement with this marker is meant for this machine. Locks know no others than these."""
    if not marker:
        return True
    try:
        from packaging.markers import InvalidMarker, Marker
    except ImportError:
        return False  # it cannot be judged, and so it is not missed
    try:
        return bool(Marker(marker).evaluate())
    except InvalidMarker:
        return False


def locked(setup: Setup) -> dict[str, str]:
    """Name and version of everything that the locks in force want here."""
    directory = os.environ.get("DEV_LOCKS") or dotenv(setup.workspace, "DEV_LOCKS") or "requirements"
    found = {}
    for name in ("core", *setup.settings["groups"]):
        text = (setup.workspace / directory / f"{name}.txt").read_text(encoding="utf-8")
        for match in re.finditer(r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;\\]+)\s*(?:;([^\\\n]*))?", text, re.MULTILINE):
            if applies((match[3] or "").strip()):
                found[normal(match[1])] = match[2]
    return found


def check_python(setup: Setup) -> Answer:
    """The environment is there, and is of the guide's Python."""
    if Path(sys.prefix).resolve() != setup.venv.resolve():
        yield Check("python", FAIL, f"{setup.python} does not start", "make it anew: rm -rf .venv && ./dev.sh sync")
        return
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] == (3, 12)
    yield Check(
        "python", PASS if good else FAIL, f"Python {version} in {setup.venv}", "" if good else "it has to be 3.12"
    )


def check_locks(setup: Setup) -> Answer:
    """The environment is what the locks say."""
    try:
        wanted = locked(setup)
    except OSError as error:
        yield Check(
            "locks", FAIL, f"{error.filename} cannot be read ({error.strerror})", "apply the role dev_container"
        )
        return
    if not wanted:
        yield Check("locks", FAIL, "they name no package", "apply the role dev_container, or ./dev.sh lock-update")
        return
    have = installed()
    wrong = [
        f"{name} is {have.get(name, 'missing')}, not {version}"
        for name, version in sorted(wanted.items())
        if have.get(name, "").split("+")[0] != version.split("+")[0]
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        todo = "on the host: ./dev.sh up --build" if setup.container else "./dev.sh sync"
        yield Check("locks", FAIL, "; ".join(wrong[:3]) + more, todo)
    else:
        yield Check("locks", PASS, f"all {len(wanted)} packages are there in the locked version")


def check_packages(setup: Setup) -> Answer:
    """The guide's packages lie in its ranges, and can be imported."""
    have = installed()
    try:
        wanted = locked(setup)
    except OSError:
        wanted = {}
    there = [name for name in PACKAGES if name in have]
    failures = import_failures([PACKAGES[name][1] for name in there if PACKAGES[name][1]], setup)
    for name, (wished, module) in PACKAGES.items():
        title = f"package {name}"
        if name not in have:
            if name in wanted:
                yield Check(title, FAIL, "it is in the locks and not in the environment", "./dev.sh sync")
            else:
                yield Check(title, SKIP, "this workspace's locks do not have it")
        elif failures.get(module):
            yield Check(title, FAIL, f"import {module}: {failures[module]}", "./dev.sh sync; if it stays, lock-update")
        elif not within(have[name], wished) and wanted.get(name) == have[name].split("+")[0]:
            yield Check(
                title, WARN, f"{have[name]} is outside of {wished}, and in your own locks", "fine if you wished it"
            )
        elif not within(have[name], wished):
            yield Check(
                title, FAIL, f"{have[name]} is outside of {wished}", "put the range back, then ./dev.sh lock-update"
            )
        else:
            yield Check(title, PASS, f"{have[name]} in {wished}{', imported' if module else ''}")


def import_failures(modules: list[str], setup: Setup) -> dict[str, str]:
    """What each import said; an empty text is a good one."""
    said: dict[str, str] = {}
    left = list(modules)
    while left:
        code, out, error = run([setup.python, "-I", "-W", "ignore", "-c", IMPORTS, json.dumps(left)], seconds=300)
        for line in out.splitlines():
            if line.startswith('["'):
                name, text = json.loads(line)
                said[name] = text
        left = [name for name in left if name not in said]
        if left:  # it died in the first of those that did not answer
            said[left[0]] = f"Python ended with {code} ({last_line(error)})"
            left = left[1:]
    return said


def check_requirements(setup: Setup) -> Answer:
    """No package misses another, or has one that it cannot work with: what `pip check` asks."""
    command = [setup.python, "-m", "pip", "check"]
    if shutil.which("uv"):
        command = ["uv", "pip", "check", "--python", setup.python]
    code, out, error = run(command, cwd=Path("/"))
    if code == 0:
        yield Check("pip check", PASS, "every package has what it needs")
    elif code in (124, 126, 127) or "No module named pip" in error:
        yield Check("pip check", SKIP, "neither uv nor pip is here")
    else:
        lines = [line for line in (out + error).splitlines() if "requires" in line or "has requirement" in line]
        yield Check("pip check", FAIL, (lines or [last_line(out + error)])[0].strip(), "./dev.sh sync")


def check_uv(_: Setup) -> Answer:
    """The tool that makes the environment."""
    code, out, error = run(["uv", "--version"])
    if code == 0:
        yield Check("uv", PASS, out.strip())
    else:
        yield Check("uv", FAIL, last_line(error), "the role uv_python installs it as /usr/local/bin/uv")


def check_workspace(setup: Setup) -> Answer:
    """The project says what it is."""
    path = setup.workspace / "pyproject.toml"
    try:
        import tomllib

        tomllib.loads(path.read_text(encoding="utf-8"))
    except ImportError:  # an older Python looks, because the environment's own does not start
        yield Check("pyproject.toml", SKIP, "this Python cannot read TOML")
    except (OSError, ValueError) as error:
        yield Check("pyproject.toml", FAIL, str(error), "mend it; ruff, mypy, pytest and uv read it")
    else:
        yield Check("pyproject.toml", PASS, "it can be read")


# --- GPUs ------------------------------------------------------------------------------------------------------------


def gpus_on_bus(sys_root: Path) -> int:
    """NVIDIA's display controllers, by the kernel; no driver is needed."""
    count = 0
    for device in sorted(sys_root.glob("bus/pci/devices/*")):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        count += vendor == "0x10de" and kind.startswith("0x03")
    return count


def check_gpu(setup: Setup) -> Answer:
    """Every GPU is seen, and computes."""
    wished, count = bool(setup.settings["gpu"]), gpus_on_bus(setup.sys_root)
    if not wished:
        why = "this workspace was made for a host without a GPU"
        if count:
            again = "apply the role dev_container again"
            yield Check("gpu", WARN, f"{why}, and here {'is one' if count == 1 else f'are {count}'}", again)
        for name in ("gpu", "nvidia-smi", "torch cuda"):
            if name != "gpu" or not count:
                yield Check(name, SKIP, why)
        return
    if not count:
        yield Check(
            "gpu", FAIL, "the workspace was made for a GPU, and there is none on the bus", "look at the card: lspci"
        )
    else:
        yield Check("gpu", PASS, f"{count} on the bus")
    code, out, error = run(["nvidia-smi", "--list-gpus"])
    if code == 0:
        yield Check("nvidia-smi", PASS, f"{len(out.splitlines())} listed")
    else:
        todo = "./dev.sh down, then up; the role container_toolkit" if setup.container else "the role nvidia_driver"
        yield Check("nvidia-smi", FAIL, last_line(out + error), todo)
    yield from check_cuda(setup, count)


def check_cuda(setup: Setup, count: int) -> Answer:
    """The torch of this environment computes on the GPUs."""
    if "torch" not in installed():
        yield Check("torch cuda", SKIP, "torch is not in this environment")
        return
    code, out, error = run([setup.python, "-I", "-W", "ignore", "-c", CUDA], seconds=180)
    if code:
        yield Check("torch cuda", FAIL, last_line(error), "./dev.sh benchmark finds the cause")
        return
    told = json.loads(out)
    devices = told["devices"]
    if not devices:
        yield Check("torch cuda", FAIL, "torch.cuda.is_available() is False", "./dev.sh benchmark finds the cause")
        return
    narrowed = bool(os.environ.get("CUDA_VISIBLE_DEVICES"))
    status = PASS if len(devices) == count or narrowed else WARN
    todo = "" if status == PASS else f"{count} are on the bus: ./dev.sh benchmark finds the cause"
    yield Check("torch cuda", status, f"{len(devices)} computed: {', '.join(sorted(set(devices)))}", todo)
    wished = CHANNEL_CUDA.get(str(setup.settings.get("channel")), "")
    if not str(told["built"]).startswith(wished):
        yield Check(
            "torch build",
            WARN,
            f"for CUDA {told['built']}, the host's channel is {setup.settings['channel']}",
            "the host's driver was planned for that: put torch's version back, then ./dev.sh lock-update",
        )


# --- variables, keys, caches ------------------------------------------------------------------------------------------


def check_environment(setup: Setup) -> Answer:
    """Variables that would hide GPUs, or send credentials in the clear."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        yield Check("CUDA_VISIBLE_DEVICES", PASS, "not set: every GPU is visible")
    elif GPU_LIST.fullmatch(value):
        yield Check("CUDA_VISIBLE_DEVICES", PASS, value)
    else:
        yield Check("CUDA_VISIBLE_DEVICES", FAIL, f"{value!r} is no list of GPUs, and hides every one", "unset it")
    plain = sorted(
        name
        for name, value in os.environ.items()
        if re.search(r"INDEX_URL|DEFAULT_INDEX|_INDEX$|ENDPOINT$|_MIRROR$", name)
        and re.match(r"http://(?!localhost\b|127\.)", value)
    )
    if plain:
        yield Check(
            "endpoints", FAIL, f"{', '.join(plain)}: http, where anybody on the way can read and write", "https://"
        )
    else:
        yield Check("endpoints", PASS, "none is plain http")
    yield from check_catalogue(setup)


def check_catalogue(setup: Setup) -> Answer:
    """The host's own variables are in force in this shell."""
    if setup.container:
        missing = [name for name in ("UV_LINK_MODE", "HF_HOME") if name not in os.environ]
        if missing:
            todo = "apply the role env_profile, then ./dev.sh down and up"
            yield Check("variables", WARN, f"not set: {', '.join(missing)}", todo)
        else:
            yield Check("variables", PASS, "those of the host's catalogue are set")
        return
    code, out, error = run(["gpufleet-env", "diff"])
    if code == 0:
        yield Check("variables", PASS, "as the host's catalogue says")
    elif code == 1:
        lines = out.strip().splitlines()
        yield Check(
            "variables", WARN, f"{len(lines)} differ, first {lines[0]}", "log in anew, or: gpufleet-env run -- COMMAND"
        )
    else:
        yield Check("variables", SKIP, last_line(error))


def secret_files(setup: Setup) -> list[Path]:
    """Where keys lie that are here."""
    home = Path.home()
    env = os.environ
    hf_home = Path(env.get("HF_HOME") or home / ".cache/huggingface")
    state = Path(env.get("XDG_STATE_HOME") or home / ".local/state")
    places = [
        setup.workspace / ".env.local",
        Path(env.get("KAGGLE_CONFIG_DIR") or home / ".kaggle") / "kaggle.json",
        Path(env.get("HF_TOKEN_PATH") or hf_home / "token"),
        hf_home / "stored_tokens",
        Path(env.get("NETRC") or home / ".netrc"),
        home / ".config/gpufleet/env",
        state / "gpufleet" / f"jupyter-{setup.settings['project']}.token",
    ]
    return [path for path in places if path.is_file()]


def check_secrets(setup: Setup) -> Answer:
    """Keys are their owner's alone, and not in git."""
    found = secret_files(setup)
    for path in found:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            yield Check(f"key {path.name}", FAIL, f"{path} is {mode:04o}: others can read it", f"chmod 600 {path}")
        else:
            yield Check(f"key {path.name}", PASS, f"{path} is {mode:04o}")
    if not found:
        yield Check("keys", SKIP, "there is none")
    code, out, _ = run(["git", "-C", str(setup.workspace), "ls-files", "--", ".env.local", ".env"])
    if code == 0 and ".env.local" in out:
        yield Check("key .env.local in git", FAIL, "it is tracked", "git rm --cached .env.local, and renew its keys")


def nearest(path: Path) -> Path:
    """The path, or what of it is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def cache_places(setup: Setup) -> dict[str, Path]:
    """What has to be writable, by name. Nothing is written to find out: some of it is shared."""
    home, env = Path.home(), os.environ
    hf_home = Path(env.get("HF_HOME") or home / ".cache/huggingface")
    places = {
        "huggingface": hf_home,
        "hub": Path(env.get("HF_HUB_CACHE") or hf_home / "hub"),
        "datasets": Path(env.get("HF_DATASETS_CACHE") or hf_home / "datasets"),
        "torch": Path(env.get("TORCH_HOME") or home / ".cache/torch"),
        "uv": Path(env.get("UV_CACHE_DIR") or home / ".cache/uv"),
        "data": setup.workspace / "data",
    }
    if not setup.container:
        places.update({f"shared {path}": Path(path) for path in setup.settings["shared_caches"]})
    return places


def check_caches(setup: Setup) -> Answer:
    """Caches and data can be written by this user."""
    for name, path in cache_places(setup).items():
        title = f"cache {name}" if name != "data" else name
        there = nearest(path)
        if os.path.lexists(path) and not path.exists():
            yield Check(title, FAIL, f"{path} is a link to nothing", "mend the link, or mount what it leads to")
        elif there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            yield Check(title, PASS, f"{path} can be written")
        else:
            who = f"{there} cannot be written by uid {os.getuid()}"
            yield Check(
                title, FAIL, who, "the role ml_cache makes shared ones; be a member of its group, and log in anew"
            )


# --- the machine -----------------------------------------------------------------------------------------------------


def check_disk(setup: Setup) -> Answer:
    """There is room."""
    places = {"workspace": setup.workspace, "cache": nearest(Path.home() / ".cache"), "data": setup.workspace / "data"}
    for name, path in places.items():
        if not path.exists():
            continue
        free = shutil.disk_usage(path).free
        status = FAIL if free < GIB else WARN if free < 10 * GIB else PASS
        todo = "" if status == PASS else "one generation of the image takes 10 GB; './dev.sh optimize' frees some"
        yield Check(f"disk {name}", status, f"{free / GIB:.1f} GiB free at {path}", todo)


def check_shm(setup: Setup) -> Answer:
    """Data loaders pass their batches through it."""
    if not setup.shm.is_dir():
        yield Check("shm", FAIL, f"there is no {setup.shm}", "data loaders with workers need it")
        return
    size = shutil.disk_usage(setup.shm).total
    status = FAIL if size <= 64 * 1024**2 else WARN if size < GIB else PASS
    where = "dev_container_shm_size" if setup.container else f"mount {setup.shm} larger, as half of the memory"
    todo = "" if status == PASS else f"data loaders with workers will die of SIGBUS: {where}"
    yield Check("shm", status, f"{size / GIB:.2f} GiB", todo)


def check_limits(setup: Setup) -> Answer:
    """Limits as the guide has them; memory that is locked and the stack are the container's matter."""
    wishes = [("nofile", resource.RLIMIT_NOFILE, 65536)]
    if setup.container:
        wishes += [
            ("memlock", resource.RLIMIT_MEMLOCK, resource.RLIM_INFINITY),
            ("stack", resource.RLIMIT_STACK, 67108864),
        ]
    for name, limit, wished in wishes:
        soft = resource.getrlimit(limit)[0]
        good = soft == resource.RLIM_INFINITY or (wished != resource.RLIM_INFINITY and soft >= wished)
        words = ["unlimited" if value == resource.RLIM_INFINITY else str(value) for value in (soft, wished)]
        where = "compose.yaml, from dev_container" if setup.container else "the role env_profile, and a new login"
        todo = "" if good else f"the guide has {words[1]}: {where}"
        yield Check(f"limit {name}", PASS if good else WARN, words[0], todo)


def check_programs(setup: Setup) -> Answer:
    """What one looks at a machine with, and the compiler that torch.compile calls."""
    missing = [name for name in ("htop", "tmux") if not shutil.which(name)]
    if not (shutil.which("nvtop") or shutil.which("nvitop")) and setup.settings["gpu"]:
        missing.append("nvtop or nvitop")
    if missing:
        yield Check("monitoring", WARN, f"not here: {', '.join(missing)}", "the role dev_container brings them")
    else:
        yield Check("monitoring", PASS, "htop, tmux and what shows GPUs are here")
    if shutil.which("gcc") or shutil.which("cc"):
        yield Check("compiler", PASS, "torch.compile has one")
    else:
        where = "an image made with dev_container_slim has none" if setup.container else "apt install gcc, or dnf"
        yield Check("compiler", WARN, "no gcc", f"torch.compile needs it; {where}")


def check_confinement(setup: Setup) -> Answer:
    """The container is no way to root on the host, and its environment is not the user's to change."""
    if not setup.container:
        return
    status = Path("/proc/self/status").read_text()
    mode = re.search(r"^Seccomp:\s*(\d)", status, re.MULTILINE)
    bounds = re.search(r"^CapBnd:\s*([0-9a-f]+)", status, re.MULTILINE)
    open_doors = []
    if not mode or mode[1] != "2":
        open_doors.append("no seccomp filter")
    if bounds and int(bounds[1], 16) & 1 << 21:
        open_doors.append("CAP_SYS_ADMIN can be had")
    if os.getuid() == 0:
        open_doors.append("you are root")
    if open_doors:
        yield Check(
            "confinement", WARN, ", ".join(open_doors), "use the service dev, not dev-debug, when you need not debug"
        )
    else:
        yield Check("confinement", PASS, "seccomp filters, no CAP_SYS_ADMIN, not root")
    if os.getuid() and os.access(setup.venv / "bin", os.W_OK):
        yield Check("environment's owner", FAIL, f"{setup.venv} can be written", "on the host: ./dev.sh up --build")


CHECKS = (
    check_python,
    check_locks,
    check_packages,
    check_requirements,
    check_uv,
    check_workspace,
    check_gpu,
    check_environment,
    check_secrets,
    check_caches,
    check_disk,
    check_shm,
    check_limits,
    check_programs,
    check_confinement,
)


def ask(setup: Setup) -> list[Check]:
    """Every check. One that breaks is a failure and hides no other."""
    found: list[Check] = []
    for check in CHECKS:
        name = check.__name__.replace("check_", "").replace("_", " ")
        if name in ("locks", "packages", "requirements") and found[0].status == FAIL:
            found.append(Check(name, SKIP, "there is no Python to ask"))
            continue
        try:
            found += check(setup)
        except Exception as error:
            found.append(Check(name, FAIL, f"{type(error).__name__}: {error}", "please report it"))
    return found


def verdict(found: Iterable[Check]) -> str:
    """The worst of it."""
    statuses = {check.status for check in found}
    return next((status for status in (FAIL, WARN) if status in statuses), PASS)


def as_text(found: list[Check]) -> str:
    """A line for each check, then the verdict."""
    lines = [
        f"{check.status}  {check.name}: {check.found}" + (f" -> {check.todo}" if check.todo else "") for check in found
    ]
    counts = ", ".join(f"{sum(c.status == s for c in found)} {s}" for s in (PASS, WARN, FAIL, SKIP))
    return "\n".join([*lines, f"{verdict(found)}: {counts}"])


def as_json(setup: Setup, found: list[Check]) -> str:
    """The same for programs."""
    document: dict[str, object] = {
        "schema": 1,
        "workspace": str(setup.workspace),
        "place": setup.place,
        "verdict": verdict(found),
        "checks": [asdict(check) for check in found],
    }
    return json.dumps(document, indent=2)


def main() -> int:
    """Ask, tell, and end with 1 where something fails."""
    parser = argparse.ArgumentParser(description="Is this workspace as it should be?")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--place", choices=("host", "container"), required=True)
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    settings = json.loads((words.workspace / ".devcontainer/workspace.json").read_text(encoding="utf-8"))
    setup = Setup(words.workspace, words.place, words.venv, settings)
    found = ask(setup)
    print(as_json(setup, found) if words.json else as_text(found))
    return 1 if verdict(found) == FAIL else 0


if __name__ == "__main__":
    sys.exit(main())
