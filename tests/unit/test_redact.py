"""Canaries: whatever the way a secret is written down, it is not in what is shown."""

from __future__ import annotations

import json
import time

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils.redact import (
    HIDDEN,
    hide_addresses,
    hide_names,
    redact,
    redact_data,
)

CANARY = "c4nary-Zq7xW1v9"
KEY = f"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz{CANARY}\nAAAA\n-----END OPENSSH PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{CANARY}@index.example/simple",
        f"https://{CANARY}@index.example/simple",
        f"https://user:p@ss/{CANARY}@index.example/simple",
        f"https://store.example/x?X-Amz-Signature={CANARY}&y=1",
        f"https://store.example/x?a=1&access_token={CANARY}",
        f"HF_TOKEN={CANARY}",
        f"export WANDB_API_KEY='{CANARY}'",
        f'{{"password": "{CANARY}"}}',
        f'{{"password": "a\\"{CANARY}"}}',
        f"{{'aws_secret_access_key': '{CANARY}'}}",
        f'{{\\"registry_token\\": \\"{CANARY}\\"}}',
        f"ansible_become_pass: {CANARY} with a blank",
        f"vault_password: '{CANARY}'",
        f"secret: |\n    first\n    {CANARY}\nplain: 1",
        f"Authorization: Bearer {CANARY}",
        f"Authorization: Basic {CANARY}==",
        f"sent bearer {CANARY}",
        f"curl --token {CANARY} x",
        f"curl -sS -u me:{CANARY} https://files.example/x",
        f"docker login -u me -p {CANARY} registry.example",
        f"sshpass -p{CANARY} ssh host",
        f"curl --password={CANARY} x",
        f"machine files.example login me password {CANARY}",
        f'"auths": {{"registry.example": {{"auth": "{CANARY}"}}}}',
        f"Set-Cookie: session={CANARY}",
        KEY,
        KEY.replace("\n", "\\n"),
        KEY.partition("-----END")[0],  # cut off
        f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n{CANARY}\n-----END PGP PRIVATE KEY BLOCK-----",
        f"ssh-ed25519 {'A' * 20}{CANARY.replace('-', '+')}AAAA {CANARY}@laptop",
        f"root:$6$salt${CANARY.replace('-', '/')}aaaa:19000:0",
    ],
)
def test_a_canary_never_sings(text: str) -> None:
    shown = redact(f"before {text} after\n" if "\n" not in text and "machine" not in text else text)
    for part in (CANARY, CANARY.replace("-", "+"), CANARY.replace("-", "/")):
        assert part not in shown
    assert HIDDEN in shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "token",
    [
        "hf_AbCdEfGhIjKlMnOpQrStUv",
        "ghp_0123456789abcdefABCDEF",
        "github_pat_11ABCDEFG0123456789_abc",
        "glpat-abcDEF123456",
        "xoxb-123456789-abcdef",
        "sk-proj-abcdefghijklmnop1234",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA1234567890abcdefghijklmnopqrstu",
        "nvapi-abcdefghijklmnopqrst",
        "dckr_pat_abcdefgh1234",
        "KGAT_0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3.abcDEF_123",
    ],
)
def test_a_token_is_known_by_its_own_look(token: str) -> None:
    assert redact(f"the server said {token}.") == f"the server said {HIDDEN}."


def test_kaggles_key_is_hidden_and_its_user_stays() -> None:
    shown = redact('{"username":"me","key":"0123456789abcdef0123456789abcdef"}')
    assert shown == f'{{"username":"me","key":"{HIDDEN}"}}'


@pytest.mark.parametrize(
    "text",
    [
        "TOKENIZERS_PARALLELISM=false",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN=1",
        "the driver 580.95.05 is on disk, https://index.example/simple/ answered 200",
        "ok: [gpu01] => changed=0, gpufleet.host.tree",
        "a basic authentication was asked for",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "2026-11-25T01:02:03Z GPU-00000000-0000-0000-0000-000000000000 0000:1b:00.0",
        "Keep the tokens of others unreadable",
        "git@host.example",
        "docker login registry.example",
        "mkdir -p /srv/ml",
        "curl -sS https://files.example/x",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_data_keep_their_shape() -> None:
    shown = redact_data(
        {
            "facts": {"hf_token": CANARY, "tokens": [CANARY], "gpus": 8, "auth": None, "is_token": True},
            f"https://u:{CANARY}@x.example": [f"PASSWORD={CANARY}", 1.5],
        }
    )
    assert CANARY not in json.dumps(shown)
    assert shown["facts"] == {"hf_token": HIDDEN, "tokens": HIDDEN, "gpus": 8, "auth": None, "is_token": True}
    assert list(shown.values())[1][1] == 1.5


def test_names_become_numbers_and_stay_apart() -> None:
    text = "gpu01.example and gpu01 and gpu010, alice in /home/alice"
    shown = hide_names(text, ["gpu01", "gpu01.example"], "host")
    assert shown == "host2 and host1 and gpu010, alice in /home/alice"
    assert hide_names(text, ["alice"], "user").endswith("user1 in /home/user1")
    assert hide_names(text, [], "x") == text


def test_addresses_go_and_versions_stay() -> None:
    text = "10.0.0.7 and fe80::1:2:3:4 at 52:54:00:12:34:56, driver 580.95.05, torch 2.14.1, 12:34:56"
    shown = hide_addresses(text)
    assert shown == "(address) and (address) at (address), driver 580.95.05, torch 2.14.1, 12:34:56"
    assert hide_addresses("GPU-12345678-0000-0000-0000-000000000000") == "GPU-(uuid)"


@pytest.mark.parametrize("text", ["a" * 100_000, "token" * 20_000, "https://" + "a:" * 30_000, "password: |\n" * 9000])
def test_no_text_makes_it_slow(text: str) -> None:
    begun = time.monotonic()
    redact(text)
    assert time.monotonic() - begun < 2
