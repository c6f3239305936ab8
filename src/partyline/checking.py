"""Whether this process can do what the settings say: descriptors, and the keys that tokens are signed with."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Final

from partyline.config import Settings
from partyline.errors import ConfigError
from partyline.relay.signers import check_keys

_RESERVED_DESCRIPTORS: Final = 256  # for the database, logs and listeners; if there are few descriptors, half of them
_MOST_WORKERS: Final = 256
_LEAST_DESCRIPTORS: Final = 64  # without a connection a server has about 20


def check(settings: Settings) -> None:
    """Whether this process can do what the settings say. Raises ConfigError naming the setting and the way out."""
    check_keys(settings.jwt_keys)
    worker_count(settings)
    limit, connections = descriptor_limit(), _connections_at_most()
    if limit < _LEAST_DESCRIPTORS:
        raise ConfigError(
            f"max_connections: this process may open {limit} files, and a server needs {_LEAST_DESCRIPTORS} at least: "
            "raise the limit with `ulimit -n`, or LimitNOFILE= of the service",
            field="max_connections",
        )
    if settings.max_connections is not None and settings.max_connections > connections:
        raise ConfigError(
            f"max_connections: {settings.max_connections} is more than the {connections} that {limit} file descriptors "
            "leave: raise the limit with `ulimit -n`, or LimitNOFILE= of the service, or lower the setting",
            field="max_connections",
        )


def worker_count(settings: Settings) -> int:
    """How many processes serve. Raises ConfigError if they cannot share what the settings say."""
    count = settings.workers or _cores()
    if count > _MOST_WORKERS:
        raise ConfigError(f"workers: {count} are more than {_MOST_WORKERS}: run one for each core", field="workers")
    if count == 1:
        return 1
    alone = {
        "log": ("the keeper has the log of all workers", settings.log),
        "chat": ("its waiting room is in one process", settings.chat),
    }
    for name, (why, value) in alone.items():
        if value:
            raise ConfigError(f"{name}: {why}: run one worker, or leave it out", field=name)
    return count


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def descriptor_limit() -> int:
    """How many file descriptors this process may open; the soft limit is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def max_connections(settings: Settings) -> int:
    """The setting, or what the descriptors leave."""
    return settings.max_connections or _connections_at_most()


def _connections_at_most() -> int:
    limit = descriptor_limit()
    return limit - min(_RESERVED_DESCRIPTORS, limit // 2)
