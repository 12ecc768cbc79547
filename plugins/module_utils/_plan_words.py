"""A plan in a few lines for a person."""

from __future__ import annotations

from typing import Any

_WIDTH = 11  # "containers" is the longest word


def describe(facts: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    """Return the lines that ``preflight`` prints: what was found, what is planned, what cannot be."""
    lines = [
        ("host", _host(facts)),
        *[("GPU", line) for line in _gpus(facts)],
        ("driver", _driver(facts)),
        *[("driver", line) for line in _planned_driver(plan["driver"])],
        *[("containers", line) for line in _containers(plan)],
        ("torch", _torch(plan["torch"])),
        ("threads", _threads(plan["resources"])),
        *[("download", f"{item['what']}: {size(item['bytes'])}") for item in plan["downloads"]],
        *[("disk", line) for line in _disk(plan["disk"])],
        *[("to do", change) for change in plan["changes"]],
        *[("left out", f"{item['what']}: {item['why']}") for item in plan["skipped"]],
        *[("warning", sentence) for sentence in plan["warnings"]],
        *[("refused", sentence) for sentence in plan["refusals"]],
    ]
    return [f"{word:<{_WIDTH}}{text}" for word, text in lines]


def size(count: int | None) -> str:
    """Return a number of bytes as people say it."""
    if count is None:
        return "unknown"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _host(facts: dict[str, Any]) -> str:
    system, cpu = facts["system"], facts["cpu"]
    where = "" if system["virtualization"] == "none" else f" ({system['virtualization']})"
    limit = f", limited to {cpu['quota_cpus']:g}" if cpu["quota_cpus"] else ""
    return (
        f"{system['pretty_name'] or 'unknown system'} on {system['architecture']}{where}, "
        f"{cpu['cores'] or '?'} cores, {cpu['vcpus'] or '?'} vCPUs{limit}, memory {size(facts['memory_bytes'])}"
    )


def _gpus(facts: dict[str, Any]) -> list[str]:
    counts: dict[str, int] = {}
    for gpu in facts["gpus"]:
        what = gpu["name"] or f"{gpu['architecture'] or 'unknown'} {gpu['device_id']}"
        held = f", held by {gpu['kernel_driver']}" if gpu["kernel_driver"] not in (None, "nvidia", "dxgkrnl") else ""
        text = f"{what}, compute capability {gpu['compute_capability'] or 'unknown'}{held}"
        counts[text] = counts.get(text, 0) + 1
    switches = [f"{len(facts['nvswitches'])} NVSwitches"] if facts["nvswitches"] else []
    return [f"{count} x {text}" for text, count in counts.items()] + switches or ["none"]


def _driver(facts: dict[str, Any]) -> str:
    driver, kernel = facts["driver"], facts["system"]["kernel"]
    loaded = f"{driver['loaded']} loaded" if driver["loaded"] else "none loaded"
    flavour = f" ({driver['flavour']})" if driver["flavour"] else ""
    on_disk = driver["on_disk"].get(kernel)
    return loaded + flavour + (f", {on_disk} on disk" if on_disk and on_disk != driver["loaded"] else "")


def _planned_driver(driver: dict[str, Any]) -> list[str]:
    """Return what becomes of the driver, and how the present one differs from that."""
    lines = []
    if driver["action"] == "install":
        source = "NVIDIA's repository" if driver["repository"] else "the distribution"
        lines.append(
            f"planned: {driver['version'] or driver['branch']} ({driver['flavour']}), "
            f"{driver['set']} set, from {source}"
        )
    elif driver["action"] in ("keep", "skip"):
        lines.append(f"{'kept' if driver['action'] == 'keep' else 'left alone'}: {driver['reason']}")
    return [*lines, *driver["differs"]]


def _containers(plan: dict[str, Any]) -> list[str]:
    """Return one line where there is an engine or will be one."""
    engine, toolkit = plan["engine"], plan["toolkit"]
    if not engine["version"] and plan["unwished_roles"]:
        return []
    extras = ", ".join(f"{name} {engine[name] or 'none'}" for name in ("compose", "buildx"))
    docker = f"Docker {engine['version']} ({extras})" if engine["version"] else f"Docker from {engine['source']}"
    gpus = {
        "cdi": "GPUs by CDI",
        "runtime": "GPUs by CDI, through the runtime nvidia",
        "legacy": "GPUs by the legacy way",
    }
    way = f", {gpus[toolkit['way']]}" if toolkit["action"] == "install" and not plan["unwished_roles"] else ""
    return [docker + way]


def _torch(torch: dict[str, Any]) -> str:
    cuda = f"CUDA {torch['cuda']}" if torch["cuda"] else "no CUDA"
    return f"{torch['channel']}: torch {torch['torch']}, {cuda} ({torch['reason']})"


def _threads(resources: dict[str, int]) -> str:
    per = "in all" if resources["gpus"] == 1 else f"for each of {resources['gpus']} GPUs"
    return f"{resources['threads']} {per}, {resources['dataloader_workers']} data-loader workers"


def _disk(rows: list[dict[str, Any]]) -> list[str]:
    """Return one line a mount that something will be written to."""
    lines = []
    for mount in dict.fromkeys(row["mount"] for row in rows):
        same = [row for row in rows if row["mount"] == mount]
        needed = sum(row["needed_bytes"] for row in same)
        if needed:
            lines.append(f"{mount or 'unknown mount'}: {size(needed)} needed, {size(same[0]['free_bytes'])} free")
    return lines
