"""Sum a tensor over all processes of all hosts: whether it is right, and how fast. Standard library and torch.

Started once a host; it starts itself again by torchrun, once a GPU. The first process of all writes one line of JSON.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import statistics
import sys
import time
from typing import Any


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True, help="of this host, from 0")
    parser.add_argument("--first", required=True, help="address of the first host")
    parser.add_argument("--port", type=int, default=29500)
    parser.add_argument("--processes", default="gpu", help="a host; gpu is one a GPU")
    parser.add_argument("--backend", choices=("nccl", "gloo"), default="nccl")
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=120, help="how long the hosts wait for each other")
    return parser.parse_args()


def launch(asked: argparse.Namespace) -> None:
    """Become torchrun, which starts this file once a process."""
    run = importlib.import_module("torch.distributed.run")
    run.main(
        [
            *("--nnodes", str(asked.nodes), "--node-rank", str(asked.rank), "--nproc-per-node", asked.processes),
            *("--master-addr", asked.first, "--master-port", str(asked.port)),
            *(__file__, *sys.argv[1:]),
        ]
    )


def bus_factor(world: int) -> float:
    """How much of the tensor each link carries in a ring, as nccl-tests counts it."""
    return 2 * (world - 1) / world


def share(rank: int) -> int:
    """By what one process multiplies the pattern; small, so that float32 holds the sum of 16,000 processes exactly."""
    return rank % 4 + 1


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Sum the tensor many times, in step with all others."""
    torch = importlib.import_module("torch")
    dist = importlib.import_module("torch.distributed")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if asked.backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(asked.backend, timeout=datetime.timedelta(seconds=asked.seconds))
    rank, world = dist.get_rank(), dist.get_world_size()
    count = asked.megabytes * 1_000_000 // 4
    # Whole numbers that stay exact in 32 bits, so that the sum has one right answer whatever the order.
    pattern = torch.arange(count, device=device, dtype=torch.float32).remainder_(251)
    right = pattern * sum(map(share, range(world)))
    wrong, times = 0, []
    for _ in range(asked.repeats + 2):  # the first two build the ring
        tensor = pattern * share(rank)
        dist.barrier()
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        dist.all_reduce(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
        wrong += int((tensor != right).sum().item())
    # The slowest process is what a training would wait for, and one wrong number anywhere is one too many.
    summary = torch.tensor([statistics.median(times[2:]), float(wrong)], device=device, dtype=torch.float64)
    dist.all_reduce(summary, op=dist.ReduceOp.MAX)
    seconds, worst = summary.tolist()
    dist.destroy_process_group()
    rate = count * 4 / seconds / 1e9
    return {
        "backend": asked.backend,
        "hosts": asked.nodes,
        "processes": world,
        "megabytes": asked.megabytes,
        "seconds": round(seconds, 6),
        "algorithm_gb_s": round(rate, 3),
        "bus_gb_s": round(rate * bus_factor(world), 3),
        "wrong": int(worst),
    }


def main() -> int:
    """Start the processes, or be one of them."""
    asked = arguments()
    if "LOCAL_RANK" not in os.environ:
        launch(asked)
        return 0
    found = measure(asked)
    if os.environ["RANK"] == "0":
        print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
