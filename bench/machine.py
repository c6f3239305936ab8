"""The machine: which cores to use, how many descriptors, and what to print about it."""

from __future__ import annotations

import datetime as dt
import os
import platform
import resource
from importlib import metadata
from pathlib import Path
from typing import NamedTuple


class Cores(NamedTuple):
    """One core for the servers, another for the load generator and the runner."""

    server: int
    load: int


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one, for this process and its children; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def choose_cores() -> Cores | None:
    """Two cores that are not two threads of one, or None if there are no two cores.

    Two hardware threads share execution units, so a generator on the sibling would make its
    server look slower. With nothing but siblings, siblings it is.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return None
    first = allowed[0]
    others = [core for core in allowed[1:] if core not in _siblings(first)]
    return Cores(first, others[0] if others else allowed[1])


def _siblings(core: int) -> set[int]:
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        text = path.read_text().strip()
    except OSError:
        return {core}
    found: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


def facts(cores: Cores | None) -> dict[str, str]:
    """What a reader of the table needs to know about the machine."""
    placement = (
        f"servers on core {cores.server}, generator on core {cores.load}" if cores else "one core: nothing is pinned"
    )
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "CPU": _cpu_model(),
        "cores": f"{os.cpu_count()} ({placement})",
        "kernel": f"{platform.system()} {platform.release()}",
        "TCP congestion control": _first_line(Path("/proc/sys/net/ipv4/tcp_congestion_control")),
        "Python": platform.python_version(),
    }


def package_version(name: str) -> str | None:
    """The installed version of a Python package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(path: Path) -> str:
    try:
        return path.read_text().split("\n", 1)[0]
    except OSError:
        return "unknown"
