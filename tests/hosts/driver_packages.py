"""Stand-ins for the packages of NVIDIA's driver as its Debian repositories name them.

The kernel packages are two real DKMS modules, of one file each: built by the host's compiler for the host's kernels, so
`dkms status`, `modinfo` and /sys/module/nvidia answer as with the real ones. They drive nothing.
"""

from __future__ import annotations

from hosts.stand_in import File, Package, library_folder

# Two branches that a host moves between, and two versions of the first.
VERSIONS = ("580.159.03", "580.178.04", "595.91.07")
# A version whose module does not compile, for the way a real failure is told (Debian 13's own open 550 is one).
BROKEN = "590.48.01"

_SOURCE = """\
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

static struct proc_dir_entry *directory;
static int admin_only = 1;
module_param_named(NVreg_RestrictProfilingToAdminUsers, admin_only, int, 0);

static int show(struct seq_file *file, void *unused)
{{
	seq_puts(file, "NVRM version: NVIDIA UNIX {banner}  {version}  stand-in\\n");
	return 0;
}}

static int show_options(struct seq_file *file, void *unused)
{{
	seq_printf(file, "RmProfilingAdminOnly: %d\\n", admin_only);
	return 0;
}}

static int __init begin(void)
{{
	{mistake}
	directory = proc_mkdir("driver/nvidia", NULL);
	if (!directory || !proc_create_single("params", 0444, directory, show_options))
		return -ENOMEM;
	return proc_create_single("version", 0444, directory, show) ? 0 : -ENOMEM;
}}

static void __exit end(void)
{{
	proc_remove(directory);
}}

module_init(begin);
module_exit(end);
MODULE_LICENSE("{license}");
MODULE_VERSION("{version}");
MODULE_DESCRIPTION("stand-in of gpufleet's tests");
"""
# The role loads it by name, and has it loaded at boot.
_UVM = """\
#include <linux/module.h>

static int __init begin(void)
{{
	return 0;
}}

static void __exit end(void)
{{
}}

module_init(begin);
module_exit(end);
MODULE_LICENSE("{license}");
MODULE_VERSION("{version}");
MODULE_SOFTDEP("pre: nvidia");
MODULE_DESCRIPTION("stand-in of gpufleet's tests");
"""
_DKMS = """\
PACKAGE_NAME="nvidia"
PACKAGE_VERSION="{version}"
BUILT_MODULE_NAME[0]="nvidia"
DEST_MODULE_LOCATION[0]="/updates/dkms"
BUILT_MODULE_NAME[1]="nvidia-uvm"
DEST_MODULE_LOCATION[1]="/updates/dkms"
MAKE[0]="make KERNELRELEASE= -C ${{kernel_source_dir}} M=${{dkms_tree}}/nvidia/{version}/build modules"
CLEAN="true"
AUTOINSTALL="yes"
"""
_POSTINST = """\
#!/bin/sh
set -e
[ "$1" != configure ] || /usr/lib/dkms/common.postinst nvidia {version} /usr/share/{name} "" "$2"
"""
_PRERM = """\
#!/bin/sh
set -e
dkms remove -m nvidia -v {version} --all >/dev/null || true
"""
_SMI = """\
#!/bin/sh
loaded=$(cat /sys/module/nvidia/version 2>/dev/null) || {{
    echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver." \\
        "Make sure that the latest NVIDIA driver is installed and running."
    echo
    exit 9
}}
if [ "$loaded" != {version} ]; then
    echo "Failed to initialize NVML: Driver/library version mismatch"
    exit 18
fi
case "$*" in
*--query-gpu=driver_version*) echo "$loaded" ;;
*) echo "No devices were found"; exit 6 ;;
esac
"""
_PERSISTENCED = """\
[Unit]
Description=NVIDIA Persistence Daemon
Wants=syslog.target

[Service]
Type=exec
ExecStart=/usr/bin/nvidia-persistenced

[Install]
WantedBy=multi-user.target
"""
_FABRIC = """\
[Unit]
Description=NVIDIA fabric manager service

[Service]
Type=exec
ExecStart=/usr/bin/nv-fabricmanager

[Install]
WantedBy=multi-user.target
"""
_IMEX = """\
[Unit]
Description=NVIDIA IMEX service

[Service]
Type=exec
ExecStart=/usr/bin/nvidia-imex

[Install]
WantedBy=multi-user.target
"""
_DAEMON = "#!/bin/sh\nexec sleep infinity\n"


def _kernel(version: str, flavour: str) -> Package:
    opened = flavour == "open"
    name = "nvidia-kernel-open-dkms" if opened else "nvidia-kernel-dkms"
    its_license = "Dual MIT/GPL" if opened else "NVIDIA"
    source = _SOURCE.format(
        version=version,
        banner="Open Kernel Module for x86_64" if opened else "x86_64 Kernel Module",
        license=its_license,
        mistake="pci_resize_resource(NULL, 1);" if version == BROKEN else "",
    )
    return Package(
        name,
        f"{version}-1",
        f"dkms, gcc, make, nvidia-kernel-support (= {version}-1)",
        files={
            f"usr/src/nvidia-{version}/nvidia.c": File(source),
            f"usr/src/nvidia-{version}/nvidia-uvm.c": File(_UVM.format(version=version, license=its_license)),
            f"usr/src/nvidia-{version}/Makefile": File("obj-m := nvidia.o nvidia-uvm.o\n"),
            f"usr/src/nvidia-{version}/dkms.conf": File(_DKMS.format(version=version)),
        },
        conflicts="nvidia-kernel-dkms" if opened else "nvidia-kernel-open-dkms",
        scripts={
            "postinst": _POSTINST.format(version=version, name=name),
            "prerm": _PRERM.format(version=version),
        },
    )


def _user_space(version: str) -> tuple[Package, ...]:
    full, same = f"{version}-1", f"(= {version}-1)"
    library = f"usr/lib/{library_folder()}"
    return (
        Package("libcuda1", full, "libc6", files={f"{library}/libcuda.so.{version}": File("stand-in\n")}),
        Package("libnvidia-ml1", full, "libc6", files={f"{library}/libnvidia-ml.so.{version}": File("stand-in\n")}),
        Package("nvidia-modprobe", full, "libc6", files={"usr/bin/nvidia-modprobe": File("#!/bin/sh\n", 0o755)}),
        Package(
            "nvidia-kernel-support",
            full,
            "nvidia-modprobe",
            # As the real one: nouveau is out of the way as soon as the package is there.
            files={"usr/lib/modprobe.d/nvidia.conf": File("blacklist nouveau\noptions nouveau modeset=0\n")},
        ),
        Package(
            "nvidia-driver-cuda",
            full,
            f"libcuda1 {same}, libnvidia-ml1 {same}, nvidia-kernel-open-dkms {same} | nvidia-kernel-dkms {same}",
            files={"usr/bin/nvidia-smi": File(_SMI.format(version=version), 0o755)},
            conflicts="nvidia-smi",
        ),
        # The desktop's half; the two metas below are both halves.
        Package("nvidia-driver", full, f"nvidia-kernel-support {same}"),
        Package(
            "nvidia-open", full, f"nvidia-kernel-open-dkms {same}, nvidia-driver {same}, nvidia-driver-cuda {same}"
        ),
        Package("cuda-drivers", full, f"nvidia-kernel-dkms {same}, nvidia-driver {same}, nvidia-driver-cuda {same}"),
        Package(
            "nvidia-persistenced",
            full,
            "libc6",
            files={
                "usr/bin/nvidia-persistenced": File(_DAEMON, 0o755),
                "lib/systemd/system/nvidia-persistenced.service": File(_PERSISTENCED),
            },
        ),
        Package(
            "nvidia-fabricmanager",
            full,
            "libc6",
            files={
                "usr/bin/nv-fabricmanager": File(_DAEMON, 0o755),
                "lib/systemd/system/nvidia-fabricmanager.service": File(_FABRIC),
            },
        ),
        Package(
            "nvidia-imex",
            full,
            "libc6",
            files={
                "usr/bin/nvidia-imex": File(_DAEMON, 0o755),
                "lib/systemd/system/nvidia-imex.service": File(_IMEX),
            },
        ),
        Package("libnvsdm", full, "libc6"),
    )


def _pinning(name: str) -> Package:
    """Return the package that pins a branch (580) or one version (580.159.03)."""
    pin = f"{name}-*" if "." in name else f"{name}.*"
    text = f"Package: *nvidia* cuda-drivers* libcuda*\nPin: version {pin}\nPin-Priority: 1000\n"
    return Package(
        f"nvidia-driver-pinning-{name}",
        f"{name}-1",
        architecture="all",
        files={"etc/apt/preferences.d/nvidia-driver-pinning": File(text)},
        provides="nvidia-driver-pinning",
        conflicts="nvidia-driver-pinning",
    )


def packages_of(versions: tuple[str, ...]) -> tuple[Package, ...]:
    """Return the stand-ins of these driver versions, and of what has a version of its own."""
    driver = [
        package
        for version in versions
        for package in (*_user_space(version), _kernel(version, "open"), _kernel(version, "proprietary"))
    ]
    branches = {version.split(".")[0] for version in versions}
    pinning = [_pinning(name) for name in sorted({*branches, *versions})]
    return (*driver, *pinning, Package("nvlsm", "2025.10.11-1", "libc6"))
