# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Take secrets out of what is shown or pasted. Rather too much is hidden than too little."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "(redacted)"

# A name that says that its value is a secret. Bounded, as everything here: a log has words of a hundred thousand signs.
_NAME = (
    r"[\w.-]{0,80}(?:passw(?:or)?d|passphrase|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key|"
    r"ssh[_-]?key|become_pass|\bpass\b|_pass\b|\bauth\b|_auth\b|authorization|cookie)[\w.-]{0,80}"
)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.|'')*'|\\\".*?\\\""
# Switches and numbers of one digit say nothing: TOKENIZERS_PARALLELISM=false.
_PLAIN = r"(?:true|false|yes|no|null|none|\d|\(redacted\))(?![\w.-])"

_RULES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern, flags), replacement)
    for pattern, flags, replacement in (
        (r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----.*?(-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL, HIDDEN),
        (
            r"((?:sk-)?(?:ssh|ecdsa)-[\w@.-]+)\s+[A-Za-z0-9+/=]{20,}"
            r"(?:[ \t]+[^\s\"'\\]+@[^\s\"'\\]+)?",
            0,
            rf"\1 {HIDDEN}",
        ),
        # A password may hold any sign but white space.
        (r"([A-Za-z][\w+.-]{0,30}://)(?:[^\s/\"'@:]*:[^\s\"']*|[^\s/\"']*)@", 0, rf"\1{HIDDEN}@"),
        (r"(?i)([?&][\w.-]*(?:token|key|sig|secret|pass|credential)[\w.-]*=)[^&\s\"'\\]+", 0, rf"\1{HIDDEN}"),
        (rf"(?i)(\bauthorization\\?[\"']?\s*[:=]\s*)(?:{_QUOTED}|[^\n\"',]+)", 0, rf"\1{HIDDEN}"),
        (r"(?i)(\bbearer\s+)[\w.~+/=-]{8,}", 0, rf"\1{HIDDEN}"),
        (
            r"(?i)(\bpassword\s+)(?=\S)(?!for\b|is\b|of\b|was\b|has\b|to\b|in\b)\S+(?=\s*$|\s+machine\b)",
            re.MULTILINE,
            rf"\1{HIDDEN}",
        ),
        (rf"(?i)(?<![\w-])(--?{_NAME}[= ]+)(?!{_PLAIN}|-)(?:{_QUOTED}|\S+)", 0, rf"\1{HIDDEN}"),
        # Programs with short options of their own.
        (r"(?i)(\b(?:login|sshpass)\b[^\n]{0,200}?\s-p\s*)[^\s-]\S*", 0, rf"\1{HIDDEN}"),
        (r"(?i)(\b(?:curl|wget)\b[^\n]{0,200}?\s(?:-u|--user)[\s=]+[^\s:]+:)\S+", 0, rf"\1{HIDDEN}"),
        # A block of YAML below such a name.
        (
            rf"(?im)^(([ \t]*)(?:- )?[\"']?{_NAME}[\"']?\s*:\s*[|>][+-]?\n)(?:\2[ \t]+\S.*(?:\n|\Z))+",
            0,
            rf"\1    {HIDDEN}\n",
        ),
        (rf"(?i)(?<![\w.-])({_NAME}\\?[\"']?\s*[:=]\s*)(?:{_QUOTED})", 0, rf'\1"{HIDDEN}"'),
        # Without quotes: on a line of YAML all of it, else up to what ends a word there.
        (rf"(?im)^([ \t]*(?:- )?{_NAME}:[ \t]+)(?![\"'\[{{&*|>]|{_PLAIN}\s*$)\S.*$", 0, rf"\1{HIDDEN}"),
        (rf"(?i)(?<![\w.-])({_NAME}\\?[\"']?\s*[:=]\s*)(?!{_PLAIN}|[\"'\[{{\\])[^\s,;}}\]\"']+", 0, rf"\1{HIDDEN}"),
        (r"(\"key\"\s*:\s*\")[0-9a-f]{32}(\")", 0, rf"\1{HIDDEN}\2"),
        # What services mark as theirs.
        (
            r"\b(?:hf_|api_org_)[A-Za-z0-9]{10,}|\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{10,}"
            r"|\bxox[abeprs]-[\w-]{8,}|\bsk-[A-Za-z0-9_-]{16,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}"
            r"|\bnvapi-[\w-]{16,}|\bpypi-[\w-]{16,}|\bnpm_[A-Za-z0-9]{16,}|\bdckr_pat_[\w-]{8,}|\bKGAT_\w{8,}"
            r"|\bya29\.[\w-]{8,}|\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?|\$(?:1|5|6|7|y|2[aby])\$[^\s:\"']{8,}",
            0,
            HIDDEN,
        ),
    )
]

# Most texts of a report are short words; only what has one of these can match a rule.
_MAYBE = re.compile(
    r"pass|login|curl|wget|secret|token|cred|key|auth|cookie|ssh-|ecdsa-|://|bearer|api_org_|hf_"
    r"|gh[pousr]_|github_pat_|glpat-|xox|sk-|AKIA|ASIA|AIza|nvapi-|pypi-|npm_|dckr_pat_|KGAT_|ya29|eyJ|\$",
    re.IGNORECASE,
)

_ADDRESS = re.compile(r"(?<![\w.:-])(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f:]{2,40})(?![\w:]|\.\d)")
_MAC = re.compile(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", re.IGNORECASE)
_UUID = re.compile(r"\bGPU-[0-9a-f]{8}-[0-9a-f-]{27}\b")


def redact(text: str) -> str:
    """Return the text without what looks like a secret."""
    if not _MAYBE.search(text):
        return text
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text


def is_secret_name(name: str) -> bool:
    """Tell whether what bears this name is a secret."""
    return bool(_SECRET_NAME.fullmatch(name))


def redact_data(value: Any) -> Any:
    """Return the data without secrets; below a name that says secret, no text and no list is left."""
    if isinstance(value, dict):
        return {
            redact(str(name)): HIDDEN
            if is_secret_name(str(name)) and isinstance(inner, (str, list, dict)) and inner
            else redact_data(inner)
            for name, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact_data(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def hide_names(text: str, names: Iterable[str], as_what: str) -> str:
    """Return the text with each of the names as a number: what was one name stays one."""
    known = sorted({name for name in names if len(name) > 1}, key=lambda name: (-len(name), name))
    numbers = {name: f"{as_what}{number}" for number, name in enumerate(sorted(known), 1)}
    if not known:
        return text
    pattern = re.compile(r"(?<![\w.-])(?:" + "|".join(map(re.escape, known)) + r")(?![\w-])")
    return pattern.sub(lambda found: numbers[found.group()], text)


def hide_addresses(text: str) -> str:
    """Return the text without network addresses and the UUIDs of GPUs."""
    text = _UUID.sub("GPU-(uuid)", _MAC.sub("(address)", text))
    return _ADDRESS.sub(lambda found: "(address)" if _is_address(found.group()) else found.group(), text)


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return word != "::"
