"""The catalogue against the guide, and what profiles and overrides do to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils import env_catalog, env_resolve
from ansible_collections.gpufleet.host.plugins.module_utils.host_plan import make_plan
from host_facts import host

ROOT = Path(__file__).resolve().parents[2]
PLAN: dict[str, Any] = {"resources": {"threads": 6, "cores": 12, "vcpus": 24, "gpus": 2, "dataloader_workers": 11}}

# The guide's section "Environment Variables", copied: name and literal value.
GUIDE = """
PYTHONDONTWRITEBYTECODE=1
PYTHONUNBUFFERED=1
PYTHONFAULTHANDLER=1
PYTHONHASHSEED=random
OPENBLAS_NUM_THREADS=4
MKL_NUM_THREADS=4
NUMEXPR_NUM_THREADS=4
OMP_NUM_THREADS=4
TORCH_NUM_THREADS=4
CUDA_VISIBLE_DEVICES=all
PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:128
HF_HOME=/home/vscode/.cache/huggingface
TRANSFORMERS_CACHE=/home/vscode/.cache/huggingface
TORCH_HOME=/home/vscode/.cache/torch
KAGGLE_CONFIG_DIR=/home/vscode/.kaggle
UV_LINK_MODE=copy
UV_COMPILE_BYTECODE=1
UV_CONCURRENT_DOWNLOADS=10
UV_HTTP_TIMEOUT=300
"""
LITERALS: list[tuple[str, str]] = [(line.split("=")[0], line.split("=", 1)[1]) for line in GUIDE.split()]
# What the profile seed does not take literally, and the deviation that says why.
NOT_LITERAL = {"CUDA_VISIBLE_DEVICES": "D-1", "TRANSFORMERS_CACHE": "D-2"}


def resolve(*profiles: str, overrides: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    values: dict[str, Any] = env_resolve.resolve(PLAN, list(profiles) or None, overrides, options)
    return values


@pytest.mark.parametrize(("name", "value"), LITERALS)
def test_the_profile_seed_gives_a_container_the_literal_of_the_guide(name: str, value: str) -> None:
    seed = resolve("seed")
    assert env_catalog.BY_NAME[name].seed == value
    if name in NOT_LITERAL:
        assert seed["container"].get(name) != value
        assert seed["whys"][name]["deviation"] == NOT_LITERAL[name]
    else:
        assert seed["container"][name] == value


def test_the_catalogue_has_no_literal_that_the_guide_does_not_have() -> None:
    assert {v.name: v.seed for v in env_catalog.CATALOG if v.seed is not None} == dict(LITERALS)


@pytest.mark.parametrize(("name", "value"), [pair for pair in LITERALS if pair[0] not in NOT_LITERAL])
def test_the_profile_seed_gives_a_host_the_literal_with_its_own_home(name: str, value: str) -> None:
    seed = resolve("seed")
    scope = "login" if "login" in env_catalog.BY_NAME[name].scopes else "uv_toml"
    assert seed[scope][name] == value.replace("/home/vscode", "$HOME")


@pytest.mark.parametrize("scope", ["login", "container"])
def test_in_seed_both_libraries_use_one_hub_directory(scope: str) -> None:
    """D-2: the guide's TRANSFORMERS_CACHE, next to HF_HOME, keeps two copies of each model."""
    seed = resolve("seed")[scope]
    assert seed["TRANSFORMERS_CACHE"] == seed["HF_HUB_CACHE"] == seed["HF_HOME"] + "/hub"


def test_every_difference_between_guide_and_default_names_its_deviation() -> None:
    training = resolve()
    for name, value in LITERALS:
        if training["container"].get(name) != value:
            assert re.fullmatch(r"D-\d+", training["whys"][name]["deviation"] or ""), name


def test_every_deviation_of_the_catalogue_is_documented() -> None:
    documented = re.findall(r"^\| (D-\d+) \|", (ROOT / "docs/deviations.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert {variable.deviation for variable in env_catalog.CATALOG if variable.deviation} <= set(documented)


def test_every_test_that_the_deviations_name_exists() -> None:
    page = (ROOT / "docs/deviations.md").read_text(encoding="utf-8")
    for path, function in re.findall(r"`((?:tests|molecule)/[\w/]+\.py)::(\w+)`", page):
        assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), (path, function)


def test_catalogue_is_well_formed() -> None:
    names = [variable.name for variable in env_catalog.CATALOG]
    assert len(names) == len(set(names))
    for variable in env_catalog.CATALOG:
        assert variable.why.endswith((".", "`."))
        assert set(variable.scopes) <= set(env_catalog.SCOPES)
        assert set(variable.profiles) <= set(env_catalog.PROFILES)
        assert ("uv_toml" in variable.scopes) == bool(variable.uv_key)
        assert bool(variable.pattern) == bool(variable.hint)
        for value in (variable.default, *variable.profiles.values()):
            assert value is None or not variable.pattern or "<" in value or re.fullmatch(variable.pattern, value)


@pytest.mark.parametrize("profile", env_catalog.PROFILES)
def test_never_all_in_cuda_visible_devices(profile: str) -> None:
    resolved = resolve(profile)
    assert all("CUDA_VISIBLE_DEVICES" not in resolved[scope] for scope in env_catalog.SCOPES)
    assert resolved["container"]["NVIDIA_VISIBLE_DEVICES"] == "all"


@pytest.mark.parametrize("profile", env_catalog.PROFILES)
def test_thread_pools_are_equal(profile: str) -> None:
    login = resolve(profile)["login"]
    pools = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "TORCH_NUM_THREADS"]
    assert len({login[name] for name in pools}) == 1


@pytest.mark.parametrize(
    ("profiles", "scope", "name", "value"),
    [
        ([], "login", "OMP_NUM_THREADS", "6"),
        (["inference"], "login", "OMP_NUM_THREADS", "12"),
        (["notebook"], "login", "OMP_NUM_THREADS", "4"),
        (["seed"], "unit", "OMP_NUM_THREADS", "4"),
        ([], "login", "ML_DATALOADER_WORKERS", "11"),
        ([], "login", "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
        (["seed"], "login", "PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128"),
        (["inference"], "login", "PYTORCH_CUDA_ALLOC_CONF", None),
        (["training", "offline"], "login", "HF_HUB_OFFLINE", "1"),
        (["training", "offline"], "uv_toml", "UV_OFFLINE", None),
        (["debug"], "login", "CUDA_LAUNCH_BLOCKING", "1"),
        (["debug", "reproducible"], "login", "PYTHONHASHSEED", "0"),
        (["reproducible"], "login", "CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
        ([], "login", "HF_HOME", "$HOME/.cache/huggingface"),
        ([], "login", "HF_HUB_CACHE", "/srv/ml/cache/huggingface/hub"),
        ([], "unit", "HF_HUB_CACHE", "/srv/ml/cache/huggingface/hub"),
        ([], "unit", "HF_HOME", None),
        ([], "container", "HF_HUB_CACHE", "/home/vscode/.cache/huggingface/hub"),
        ([], "login", "SSL_CERT_FILE", None),
        ([], "login", "NVIDIA_VISIBLE_DEVICES", None),
        ([], "login", "UV_LINK_MODE", None),
        ([], "uv_toml", "UV_LINK_MODE", "copy"),
    ],
)
def test_profiles(profiles: list[str], scope: str, name: str, value: str | None) -> None:
    assert resolve(*profiles)[scope].get(name) == value


@pytest.mark.parametrize(
    ("overrides", "scope", "name", "value"),
    [
        ({"OMP_NUM_THREADS": 3}, "login", "OMP_NUM_THREADS", "3"),
        ({"OMP_NUM_THREADS": 3}, "container", "MKL_NUM_THREADS", "3"),
        ({"OMP_NUM_THREADS": 3, "MKL_NUM_THREADS": 2}, "login", "MKL_NUM_THREADS", "2"),
        ({"CUDA_VISIBLE_DEVICES": 0}, "login", "CUDA_VISIBLE_DEVICES", "0"),
        ({"CUDA_VISIBLE_DEVICES": "0,GPU-8f3b"}, "unit", "CUDA_VISIBLE_DEVICES", "0,GPU-8f3b"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-GPU-8f3b/1/0"}, "login", "CUDA_VISIBLE_DEVICES", "MIG-GPU-8f3b/1/0"),
        ({"PYTHONUNBUFFERED": None}, "login", "PYTHONUNBUFFERED", None),
        ({"HF_HUB_OFFLINE": True}, "login", "HF_HUB_OFFLINE", "1"),
        ({"HF_HUB_CACHE": "/data/hf"}, "login", "HF_HUB_CACHE", "/data/hf"),
        ({"HF_HUB_CACHE": "/data/hf"}, "container", "HF_HUB_CACHE", "/home/vscode/.cache/huggingface/hub"),
        ({"HF_HOME": {"container": "/mnt/hf"}}, "container", "HF_HOME", "/mnt/hf"),
        ({"HF_HOME": {"container": "/mnt/hf"}}, "login", "HF_HOME", "$HOME/.cache/huggingface"),
        ({"HF_HOME": "${HOME}/hf"}, "login", "HF_HOME", "$HOME/hf"),
        ({"WANDB_DIR": "$HOME/wandb"}, "container", "WANDB_DIR", "/home/vscode/wandb"),
        ({"WANDB_DIR": "$HOME/wandb"}, "unit", "WANDB_DIR", None),
        ({"WANDB_PROJECT": "two words"}, "unit", "WANDB_PROJECT", "two words"),
        ({"https_proxy": "http://proxy:3128"}, "login", "https_proxy", "http://proxy:3128"),
        ({"HF_ENDPOINT": "https://hub.example"}, "container", "HF_ENDPOINT", "https://hub.example"),
        ({"UV_LINK_MODE": "clone"}, "uv_toml", "UV_LINK_MODE", "clone"),
    ],
)
def test_overrides(overrides: dict[str, Any], scope: str, name: str, value: str | None) -> None:
    assert resolve(overrides=overrides)[scope].get(name) == value


def test_an_override_settles_a_conflict() -> None:
    overrides = {"PYTORCH_CUDA_ALLOC_CONF": None}
    assert not env_resolve.problems(PLAN, ["training", "seed"], overrides)
    assert env_resolve.problems(PLAN, ["training", "seed"])


def test_options() -> None:
    resolved = resolve(
        cache_root="/data/ml/", container_home="/home/dev", container_cpus=2, ca_bundle="/etc/ssl/certs/site.crt"
    )
    assert resolved["login"]["HF_HUB_CACHE"] == "/data/ml/cache/huggingface/hub"
    assert resolved["container"]["HF_HOME"] == "/home/dev/.cache/huggingface"
    assert resolved["container"]["OMP_NUM_THREADS"] == "2"
    assert resolved["login"]["OMP_NUM_THREADS"] == "6"
    assert resolved["unit"]["SSL_CERT_FILE"] == resolved["login"]["REQUESTS_CA_BUNDLE"] == "/etc/ssl/certs/site.crt"
    assert "SSL_CERT_FILE" not in resolved["container"]


@pytest.mark.parametrize(
    ("profiles", "overrides", "words"),
    [
        (["train"], {}, ["env_profile_profiles", "'train'", "training", "offline"]),
        (["training", "seed"], {}, ["'training'", "'seed'", "PYTORCH_CUDA_ALLOC_CONF", "env_profile_overrides"]),
        (["seed", "debug"], {}, ["'seed'", "'debug'", "PYTHONHASHSEED"]),
        ([], {"CUDA_VISIBLE_DEVICES": "all"}, ["env_profile_overrides.CUDA_VISIBLE_DEVICES", "'all'", "unset"]),
        ([], {"CUDA_VISIBLE_DEVICES": "none"}, ["CUDA_VISIBLE_DEVICES", "'none'"]),
        ([], {"CUDA_VISIBLE_DEVICES": "0, 1"}, ["CUDA_VISIBLE_DEVICES"]),
        ([], {"CUDA_VISIBLE_DEVICES": {"unit": "all"}}, ["env_profile_overrides.CUDA_VISIBLE_DEVICES.unit"]),
        ([], {"HF_ENDPOINT": "http://hub.example"}, ["HF_ENDPOINT", "https://", "allow_insecure_endpoints"]),
        ([], {"UV_INDEX": "https://a/simple http://b/simple"}, ["UV_INDEX", "https://"]),
        ([], {"WANDB_NOTES": "a\nb"}, ["WANDB_NOTES", "newline"]),
        ([], {"WANDB_NOTES": 'say "x"'}, ["WANDB_NOTES", "quote"]),
        ([], {"WANDB_DIR": "$SCRATCH/w"}, ["WANDB_DIR", "$HOME/"]),
        ([], {"WANDB_NOTES": " x"}, ["WANDB_NOTES", "space"]),
        ([], {"WANDB_NOTES": ["x"]}, ["WANDB_NOTES", "list"]),
        ([], {"HF_TOKEN": "hf_x"}, ["HF_TOKEN", "secret", "0600"]),
        ([], {"WANDB_API_KEY": "x"}, ["WANDB_API_KEY", "secret"]),
        ([], {"PATH": "/x"}, ["PATH", "shell"]),
        ([], {"A-B": "1"}, ["'A-B'"]),
        ([], {"PYTORCH_ALLOC_CONF": "x:1"}, ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"]),
        ([], {"PYTHONHASHSEED": "yes"}, ["PYTHONHASHSEED", "'yes'", "random"]),
        ([], {"OMP_NUM_THREADS": 0}, ["OMP_NUM_THREADS", "'0'"]),
        ([], {"UV_LINK_MODE": "reflink"}, ["UV_LINK_MODE", "clone"]),
        ([], {"UV_LINK_MODE": {"login": "copy"}}, ["UV_LINK_MODE", "'login'", "uv_toml"]),
    ],
)
def test_bad_wishes_get_one_sentence(profiles: list[str], overrides: dict[str, Any], words: list[str]) -> None:
    found = env_resolve.problems(PLAN, profiles or None, overrides)
    assert len(found) == 1
    assert "\n" not in found[0]
    for word in words:
        assert word in found[0]
    with pytest.raises(env_resolve.WishError, match=re.escape(found[0])):
        env_resolve.resolve(PLAN, profiles or None, overrides)


def test_insecure_endpoints_when_allowed() -> None:
    overrides = {"HF_ENDPOINT": "http://hub.example"}
    assert not env_resolve.problems(PLAN, None, overrides, {"allow_insecure_endpoints": True})


def test_what_each_profile_would_set() -> None:
    values = resolve()["profile_values"]
    assert values["debug"] == {
        "PYTHONHASHSEED": "0",
        "CUDA_LAUNCH_BLOCKING": "1",
        "PYTHONDEVMODE": "1",
        "TORCH_SHOW_CPP_STACKTRACES": "1",
    }
    assert values["inference"]["OMP_NUM_THREADS"] == "12"
    assert values["seed"]["CUDA_VISIBLE_DEVICES"] is None


def test_a_plan_without_resources_is_refused() -> None:
    assert "preflight" in env_resolve.problems({})[0]
    assert "preflight" in env_resolve.problems({"resources": {"threads": None}})[0]


@pytest.mark.parametrize(
    "options",
    [
        {"cache_root": "srv"},
        {"container_home": ""},
        {"ca_bundle": "x y"},
        {"venv_path": "/a:b"},
        {"config_path": "$HOME/x"},
        {"group": "Domain Users"},
        {"nofile": 512},
        {"nofile": "unlimited"},
        {"nofile": 2000000},
        {"nope": 1},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    (found,) = env_resolve.problems(PLAN, None, None, options)
    assert next(iter(options)) in found


# --- the site's proxy ------------------------------------------------------------------------------------------------


PROXY = {"https_proxy": "http://proxy.example:3128", "no_proxy": "localhost,.example"}


def test_one_proxy_is_in_every_scope_in_both_spellings() -> None:
    plan = make_plan(host(), {"proxy": PROXY})
    assert plan["refusals"] == []
    resolved = env_resolve.resolve(plan, ["training"], plan["overrides"], {})
    for scope in ("login", "user_systemd", "unit", "container"):
        for name, value in PROXY.items():
            assert resolved[scope][name] == resolved[scope][name.upper()] == value


def test_an_override_of_one_variable_counts_more() -> None:
    plan = make_plan(host(), {"proxy": PROXY, "overrides": {"no_proxy": "else"}})
    assert (plan["overrides"]["no_proxy"], plan["overrides"]["https_proxy"]) == ("else", PROXY["https_proxy"])


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"https_proxy": "http://anna:hush-hush@proxy:3128"}, "docker_engine_proxy"),
        ({"socks_proxy": "socks5://proxy:1080"}, "http_proxy, https_proxy, no_proxy"),
        ({"https_proxy": ["http://proxy"]}, "http_proxy, https_proxy, no_proxy"),
        ("http://proxy:3128", "gpufleet_proxy"),
    ],
)
def test_another_proxy_is_refused_and_no_password_told(wish: Any, words: str) -> None:
    said = " ".join(make_plan(host(), {"proxy": wish})["refusals"])
    assert words in said
    assert "gpufleet_proxy" in said
    assert "hush-hush" not in said
