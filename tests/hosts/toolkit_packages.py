"""Stand-ins of the NVIDIA Container Toolkit: what the real one (1.20) does on a host without a GPU.

The runtime really injects, from a hand-made CDI specification, and only in the mode in which the real one would.
"""

from __future__ import annotations

from hosts.stand_in import File, Package

_NO_GPU = "failed to initialize NVML: ERROR_LIBRARY_NOT_FOUND"

_CTK = """#!/usr/bin/python3
import json, pathlib, sys
words = " ".join(sys.argv[1:])
if words == "--version":
    print("NVIDIA Container Toolkit CLI version @VERSION@\\ncommit: 0000000")
elif words == "cdi list":
    files = [path for place in ("/etc/cdi", "/var/run/cdi") for path in pathlib.Path(place).glob("*.yaml")]
    specs = [json.loads(path.read_text()) for path in files]
    names = [f"{spec['kind']}={device['name']}" for spec in specs for device in spec["devices"]]
    print(f'level=info msg="Found {len(names)} CDI devices"', file=sys.stderr)
    print("\\n".join(names))
elif words.startswith("cdi generate"):
    sys.exit('level=error msg="failed to generate CDI spec: @NO_GPU@"')
else:
    print("stand-in nvidia-ctk: no answer for these arguments", file=sys.stderr)
    sys.exit(64)
"""

# Between containerd's shim and runc: changes the container's configuration before runc reads it.
_RUNTIME = """#!/usr/bin/python3
import json, os, pathlib, re, sys
arguments = sys.argv[1:]
if "--version" in arguments:
    print("NVIDIA Container Runtime version @VERSION@")
if "create" in arguments:
    toml = pathlib.Path("/etc/nvidia-container-runtime/config.toml").read_text()
    section = re.search(r"^\\[nvidia-container-runtime\\]\\n(.*?)(?=^\\[|\\Z)", toml, re.M | re.S)
    mode = re.search(r'^\\s*mode\\s*=\\s*"(\\w+)"', section[1] if section else "", re.M)
    bundle = pathlib.Path(arguments[arguments.index("--bundle") + 1] if "--bundle" in arguments else ".")
    config = json.loads((bundle / "config.json").read_text())
    asked = [word.split("=", 1)[1] for word in config["process"]["env"] if word.startswith("NVIDIA_VISIBLE_DEVICES=")]
    if asked and asked[-1] not in ("", "void"):
        if not mode or mode[1] != "cdi":
            sys.exit("failed to create the automatic CDI modifier: @NO_GPU@")
        files = [path for place in ("/etc/cdi", "/var/run/cdi") for path in pathlib.Path(place).glob("*.yaml")]
        specs = [json.loads(path.read_text()) for path in files]
        devices = [d for spec in specs for d in spec["devices"] if d["name"] == asked[-1]]
        if not devices:
            sys.exit(f"unresolvable CDI devices nvidia.com/gpu={asked[-1]}")
        for device in devices:
            edits = device["containerEdits"]
            config["process"]["env"] += edits.get("env", [])
            for node in edits.get("deviceNodes", []):
                found = os.stat(node.get("hostPath", node["path"])).st_rdev
                plain = {"type": "c", "major": os.major(found), "minor": os.minor(found)}
                config["linux"].setdefault("devices", []).append(
                    {**plain, "path": node["path"], "fileMode": 0o666, "uid": 0, "gid": 0})
                config["linux"]["resources"].setdefault("devices", []).append(
                    {**plain, "allow": True, "access": "rwm"})
        (bundle / "config.json").write_text(json.dumps(config))
for runc in ("/usr/sbin/runc", "/usr/bin/runc"):
    if os.path.exists(runc):
        os.execv(runc, [runc, *arguments])
"""

# As the real package's script makes it where there is none.
_CONFIG = """#!/bin/sh
set -e
test -e /etc/nvidia-container-runtime/config.toml && exit 0
mkdir -p /etc/nvidia-container-runtime
cat >/etc/nvidia-container-runtime/config.toml <<'TOML'
#accept-nvidia-visible-devices-as-volume-mounts = false
supported-driver-capabilities = "compat32,compute,display,graphics,ngx,utility,video"

[nvidia-container-cli]
#debug = "/var/log/nvidia-container-toolkit.log"
load-kmods = true
#no-cgroups = false

[nvidia-container-runtime]
log-level = "info"
mode = "auto"
runtimes = ["runc", "crun"]

[nvidia-container-runtime.modes.cdi]
annotation-prefixes = ["cdi.k8s.io/"]
default-kind = "nvidia.com/gpu"
TOML
"""

_REFRESH_SERVICE = """[Unit]
Description=Refresh NVIDIA CDI specification file
ConditionPathExists=/usr/bin/nvidia-smi

[Service]
Type=oneshot
EnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
ExecStart=/usr/bin/nvidia-ctk cdi generate

[Install]
WantedBy=multi-user.target
"""

_REFRESH_PATH = """[Unit]
Description=Trigger CDI refresh on NVIDIA driver install / uninstall events

[Path]
PathChanged=/lib/modules/%v/modules.dep
PathChanged=/usr/bin/nvidia-ctk

[Install]
WantedBy=multi-user.target
"""


def packages_of(version: str) -> tuple[Package, ...]:
    """Return the four packages of one version."""
    plain = version.partition("-")[0]

    def program(text: str) -> File:
        return File(text.replace("@VERSION@", plain).replace("@NO_GPU@", _NO_GPU), 0o755)

    version_only = program("#!/bin/sh\necho 'NVIDIA Container Toolkit version @VERSION@'\n")
    return (
        Package("libnvidia-container1", version, "libc6"),
        Package("libnvidia-container-tools", version, f"libnvidia-container1 (= {version})"),
        Package(
            "nvidia-container-toolkit-base",
            version,
            "libc6",
            files={
                "usr/bin/nvidia-ctk": program(_CTK),
                "usr/bin/nvidia-cdi-hook": version_only,
                "usr/bin/nvidia-container-runtime": program(_RUNTIME),
                "lib/systemd/system/nvidia-cdi-refresh.service": File(_REFRESH_SERVICE),
                "lib/systemd/system/nvidia-cdi-refresh.path": File(_REFRESH_PATH),
            },
            scripts={"postinst": _CONFIG},
        ),
        Package(
            "nvidia-container-toolkit",
            version,
            f"nvidia-container-toolkit-base (= {version}), libnvidia-container-tools (= {version})",
            files={"usr/bin/nvidia-container-runtime-hook": version_only},
        ),
    )
