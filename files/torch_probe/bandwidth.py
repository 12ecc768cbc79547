"""Memory and links: copies on the device, to and from the host, between GPUs; all-reduce over all of them.

Every path's copy is verified by digest: a link that corrupts is worse than a slow one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

from torch_probe.device import Device
from torch_probe.report import P2p

GIB = 1 << 30
MIB = 1 << 20


def best_rates(device: Device, work: Callable[[], None], moved: int, seconds: float) -> float:
    """GB/s, the median over the time, at least five times, after one to warm up."""
    device.seconds(work)
    rates: list[float] = []
    end = time.monotonic() + seconds
    while len(rates) < 5 or time.monotonic() < end:
        rates.append(moved / max(device.seconds(work), 1e-9) / 1e9)
    return round(statistics.median(rates), 1)


def device_bandwidth(device: Device, seconds: float, most: int = GIB) -> dict[str, float | bool | None]:
    """Copy (read and write) and add (two reads, one write) of blocks far larger than any cache."""
    torch = device.torch
    size = int(min(most, device.free_bytes() // 6)) // 4096 * 4096
    a, b, c = (device.empty((size // 4,), torch.float32) for _ in range(3))
    for block, salt in ((a, 201), (b, 202)):
        block.copy_(device.normal(size // 4096, 1024, torch.float32, salt).reshape(-1))
    copy = best_rates(device, lambda: c.copy_(a), 2 * size, seconds / 2)
    right = bool(torch.equal(c, a))
    add = best_rates(device, lambda: torch.add(a, b, out=c), 3 * size, seconds / 2)
    return {"device_copy_gb_s": copy, "device_add_gb_s": add, "copies_verified": right}


def device_theory(device: Device) -> float | None:
    """Memory clock (kHz, double data rate) times the bus width, where torch tells them."""
    known = device.torch.cuda.get_device_properties(device.name) if device.is_gpu else None
    clock, width = getattr(known, "memory_clock_rate", None), getattr(known, "memory_bus_width", None)
    return round(clock * 1e3 * 2 * width / 8 / 1e9, 1) if clock and width else None


# ------------------------------------------------------------------------------------------------ to and from the host


def parse_cpus(text: str | None) -> set[int]:
    """`0-3,8` as a set."""
    cpus: set[int] = set()
    for part in (text or "").strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            cpus |= set(range(int(first), int(last or first) + 1))
    return cpus


@contextlib.contextmanager
def running_on(cpus: set[int]) -> Iterator[None]:
    """This thread on these CPUs: memory is taken from the node on which it is asked for. Put back afterwards."""
    before = os.sched_getaffinity(0)
    wanted = cpus & before
    try:
        if wanted:
            os.sched_setaffinity(0, wanted)
        yield
    finally:
        os.sched_setaffinity(0, before)


def near_and_far(sysfs: Path, bus_id: str | None) -> tuple[set[int], set[int]]:
    """The CPUs of the GPU's own NUMA node, and those of another one; empty where the machine has but one."""
    near = set()
    if bus_id:
        with contextlib.suppress(OSError):
            near = parse_cpus((sysfs / "bus/pci/devices" / bus_id / "local_cpulist").read_text(encoding="utf-8"))
    usable = os.sched_getaffinity(0)
    far: set[int] = set()
    for node in sorted(sysfs.glob("devices/system/node/node[0-9]*/cpulist")):
        with contextlib.suppress(OSError):
            cpus = parse_cpus(node.read_text(encoding="utf-8")) & usable
            if near and cpus and not cpus & near:
                far = cpus
    return near, far


class HostCopies:
    """Pinned copies of one block, each way and both at once."""

    def __init__(self, device: Device, size: int = 256 * MIB) -> None:
        torch = device.torch
        self.device, self.size = device, size
        pinned = {"pin_memory": True} if device.is_gpu else {}
        self.source = torch.empty(size // 4, dtype=torch.int32, **pinned)
        self.target = torch.empty(size // 4, dtype=torch.int32, **pinned)
        words = device.hashes(0, size // 8, 301).view(torch.int32)
        self.source.copy_(words)
        self.there = device.empty((size // 4,), torch.int32)
        self.back = device.empty((size // 4,), torch.int32)
        self.back.copy_(words)
        self.digest = device.digest(self.back)
        if device.is_gpu:
            self.streams = torch.cuda.Stream(device.name), torch.cuda.Stream(device.name)

    def up(self) -> None:
        """Host to device."""
        self.there.copy_(self.source, non_blocking=True)

    def up_for_a_while(self) -> None:
        """Some tens of milliseconds of it."""
        for _ in range(4):
            self.up()

    def down(self) -> None:
        """Device to host."""
        self.target.copy_(self.back, non_blocking=True)

    def both(self) -> None:
        """Both at once, on two streams that begin and end with the current one, which holds the clock."""
        if not self.device.is_gpu:
            self.up()
            self.down()
            return
        cuda = self.device.torch.cuda
        current = cuda.current_stream(self.device.name)
        for stream, work in zip(self.streams, (self.up, self.down)):
            stream.wait_stream(current)
            with cuda.stream(stream):
                work()
            current.wait_stream(stream)

    def verified(self) -> bool:
        """Whether both targets hold what their sources hold."""
        self.device.wait()
        arrived = self.device.digest(self.there)
        self.there.copy_(self.target)
        return arrived == self.digest == self.device.digest(self.there)


def host_bandwidth(
    device: Device, seconds: float, near: set[int], far: set[int], look: Callable[[], None], size: int = 256 * MIB
) -> dict[str, float | bool | None]:
    """Host copies from the GPU's own NUMA node, and once from another. `look` is called while data are on the way."""
    found: dict[str, float | bool | None] = {}
    with running_on(near):
        copies = HostCopies(device, size)
        # The device copies while the host looks.
        under_way = device.start(copies.up_for_a_while)
        look()
        under_way.seconds()
        found["h2d_gb_s"] = best_rates(device, copies.up, size, seconds / 3)
        found["d2h_gb_s"] = best_rates(device, copies.down, size, seconds / 3)
        found["bidir_gb_s"] = best_rates(device, copies.both, 2 * size, seconds / 3)
        found["copies_verified"] = copies.verified()
    if far:
        with running_on(far):
            found["far_numa_h2d_gb_s"] = best_rates(device, HostCopies(device, size).up, size, seconds / 3)
    return found


def upload_rate(device: Device, seconds: float, near: set[int], ready: Callable[[], None]) -> float:
    """Host to device while the other GPUs do the same: `ready` waits for them."""
    with running_on(near):
        copies = HostCopies(device)
        ready()
        return best_rates(device, copies.up, copies.size, seconds)


# ------------------------------------------------------------------------------------------------ between GPUs


def peer_copies(devices: Sequence[Device], size: int = 256 * MIB) -> P2p:
    """Copies from each GPU to each other one, verified by digest. Where there is no access, that is said."""
    torch = devices[0].torch
    n = len(devices)
    matrix: list[list[float | None]] = [[None] * n for _ in range(n)]
    access: list[list[bool | None]] = [[None] * n for _ in range(n)]
    verified: bool | None = None
    blocks = []
    for device in devices:
        block = device.empty((size // 4,), torch.int32)
        block.copy_(device.hashes(0, size // 8, 400).view(torch.int32))
        blocks.append(block)
    digest = devices[0].digest(blocks[0])
    for i, source in enumerate(devices):
        for j, target in enumerate(devices):
            if i == j:
                continue
            access[i][j] = bool(torch.cuda.can_device_access_peer(source.name, target.name)) if source.is_gpu else True
            if not access[i][j]:
                continue
            if source.is_gpu:
                torch.cuda.set_device(source.name)
            landing = target.empty((size // 4,), torch.int32)

            def copy(landing: Any = landing, block: Any = blocks[i]) -> None:
                landing.copy_(block, non_blocking=True)

            matrix[i][j] = best_rates(source, copy, size, 0.02)
            target.wait()
            verified = verified is not False and target.digest(landing) == digest
    return {"matrix_gb_s": matrix, "access": access, "verified": verified}


def all_reduce(
    device: Device, rank: int, world: int, meeting: str, sizes_mib: Sequence[int], backend: str = "nccl"
) -> dict[str, Any]:
    """Bus bandwidth of all-reduce for each size, on this rank, and whether the sums were right. No network: the ranks
    meet in a file and talk over the loopback at most.
    """
    torch = device.torch
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    distributed = torch.distributed
    distributed.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=world)
    try:
        rates: dict[str, float] = {}
        right = True
        for size in sizes_mib:
            data = device.empty((size * MIB // 4,), torch.float32)
            data.fill_(float(rank + 1))
            distributed.all_reduce(data)
            device.wait()
            expected = world * (world + 1) / 2
            right = right and bool((data == expected).all())
            data.zero_()
            seconds = sorted(device.seconds(functools.partial(distributed.all_reduce, data)) for _ in range(10))
            rates[str(size)] = round(size * MIB / statistics.median(seconds) * 2 * (world - 1) / world / 1e9, 1)
        version = None
        with contextlib.suppress(Exception):  # a tuple, a number or nothing, by version and backend
            found = torch.cuda.nccl.version()
            version = ".".join(str(part) for part in found) if isinstance(found, tuple) else str(found)
        return {"ranks": world, "version": version, "busbw_gb_s": rates, "verified": right}
    finally:
        distributed.destroy_process_group()
