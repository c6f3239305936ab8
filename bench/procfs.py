"""What a server has used so far, read from /proc for its whole process tree."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time, voluntary context switches and time spent ready but without a core, since the start."""

    cpu_ns: int
    sleeps: int
    waited_ns: int

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(self.cpu_ns - earlier.cpu_ns, self.sleeps - earlier.sleeps, self.waited_ns - earlier.waited_ns)


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name in parentheses may hold anything: the fields follow the last one.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found.extend(children.get(parent, ()))
    return found


def usage(pid: int) -> Usage:
    """User + system time of all processes and threads; sleeps and waits of their main threads.

    `schedstat` counts nanoseconds; where the kernel has none, `stat` counts ticks of 10 ms. A
    voluntary switch of the main thread is the event loop going to sleep, so operations per
    voluntary switch are operations per wake-up. A server that is never idle does not sleep. Time
    waited for a core is somebody else's work on it, which empties the caches too.
    """
    cpu_ns = sleeps = waited_ns = 0
    for process in tree(pid):
        root = Path(f"/proc/{process}")
        for task in (root / "task").iterdir():
            try:
                cpu_ns += _cpu_ns(task)
            except OSError:
                continue  # the thread ended between the two looks
        sleeps += _status(root, "voluntary_ctxt_switches")
        waited_ns += _waited_ns(root)
    return Usage(cpu_ns, sleeps, waited_ns)


def _cpu_ns(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text().split()[0])
    except FileNotFoundError:
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_NS


def _waited_ns(root: Path) -> int:
    try:
        return int((root / "schedstat").read_text().split()[1])
    except FileNotFoundError:
        return 0


def _status(root: Path, name: str) -> int:
    for line in (root / "status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


def resident_bytes(pid: int) -> int:
    """VmRSS of all processes of the tree."""
    return sum(_status(Path(f"/proc/{process}"), "VmRSS") * 1024 for process in tree(pid))


def settled_resident_bytes(pid: int, at_most: float = 10.0) -> int:
    """Resident memory once it has stood still for half a second, or after `at_most` seconds.

    A collector may still be at work when the last connection is open.
    """
    deadline = time.monotonic() + at_most
    last, still = resident_bytes(pid), 0
    while still < 5 and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        now = resident_bytes(pid)
        still = still + 1 if abs(now - last) <= last // 1000 else 0
        last = now
    return last
