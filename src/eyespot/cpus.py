"""How many CPUs this process may use, and how its threads share them."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

MAX_LATENCY_THREADS = 16  # one layer of a small network takes 100 µs then, and synchronising much of that


@dataclass(frozen=True, slots=True)
class Plan:
    """`workers` images are in progress at once. The engine computes `streams` of them, with `threads` threads each.

    An image that has the machine to itself gets `latency_threads`.
    """

    workers: int
    streams: int
    threads: int
    latency_threads: int


def plan(workers: int | None = None, threads: int | None = None, cpus: int | None = None) -> Plan:
    """Threads that use all CPUs of this process, and no more.

    Under load each core computes an image of its own, with one thread a stream, since separate images need no
    synchronisation; one more worker than streams decodes meanwhile, so that no core waits for an image.
    """
    cpus = cpus or available_cpus()
    if workers is None:
        threads = threads or 1
        streams = max(1, cpus // threads)
        workers = streams + 1
    else:
        threads = threads or max(1, cpus // workers)
        streams = workers
    latency_threads = max(threads, min(cpus, streams * threads, MAX_LATENCY_THREADS))
    return Plan(workers, streams, threads, latency_threads)


def available_cpus(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use: its affinity mask, capped by the cgroup's quota (rounded up).

    Not `os.cpu_count()`, which counts the whole machine and makes a small container on a large host throttle itself.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min(_quotas(proc, cgroups), default=math.inf)
    return max(1, min(affinity, math.ceil(quota)) if quota < math.inf else affinity)


def _quotas(proc: Path, cgroups: Path) -> list[float]:
    """Quotas, in CPUs, of this process's cgroup and its parents: `cpu.max` (v2), `cpu.cfs_*` (v1)."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    quotas: list[float | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        leaf = root / path.lstrip("/")
        # Inside a container the path is often the host's. Then only the root of the mount exists, and it is ours.
        folders = [folder for folder in (leaf, *leaf.parents) if folder.is_relative_to(root)]
        quotas += map(_quota_v1 if controllers else _quota_v2, folders)
    return [quota for quota in quotas if quota]


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError):
        return None
