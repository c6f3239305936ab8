"""What `partyline doctor` finds about the machine: Python, SQLite, descriptors, the port, the disk."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import platform
import re
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Final

from partyline import __version__
from partyline.checking import descriptor_limit, max_connections
from partyline.config import Settings
from partyline.errors import ConfigError
from partyline.findings import Finding, ok, problem, warning
from partyline.stores.sqlite import lock

FEW: Final = 1_000  # connections: fewer surprise
_SPACE_LOW: Final = 1024**3  # bytes
_SPACE_OUT: Final = 64 * 1024**2
_LISTENING: Final = "0A"  # TCP_LISTEN in /proc/net/tcp

# Filesystems on which a write-ahead log's shared memory, locks or fsync do not work as on a local disk.
_NETWORK: Final = re.compile(
    r"9p|afs|beegfs|ceph|cifs|coda|drvfs|fuse\.(cephfs|glusterfs|s3fs|sshfs)|glusterfs|gpfs|lustre|ncpfs|nfs4?|orangefs"
    r"|smb3|smbfs|vboxsf|virtiofs"
)
_PASSING: Final = {
    "tmpfs": "it is memory: gone when the machine stops",
    "ramfs": "it is memory: gone when the machine stops",
    "overlay": "it is a container's own layer: gone with the container",
    "aufs": "it is a container's own layer: gone with the container",
}


def examine_machine(settings: Settings) -> Iterator[Finding]:
    """Examine the machine for a server with these settings. Changes only this process's descriptor limit."""
    yield _python()
    yield distribution()
    yield _uvloop()
    yield _sqlite()
    yield _descriptors(settings)
    yield port(settings)
    if settings.db != ":memory:":
        folder = os.path.dirname(os.path.realpath(settings.db))
        if os.path.isdir(folder):
            yield _space(folder, settings.db)
            yield filesystem(folder)


def _python() -> Finding:
    what = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}"
    if sys.implementation.name != "cpython":
        return warning("python", what, "use CPython 3.11 or later: nothing else is tested")
    if platform.system() != "Linux":
        return warning("python", what, "use Linux in production: nothing else is tested")
    return ok("python", what)


def distribution() -> Finding:
    """Whether the module `partyline` is ours: a voice application on PyPI uses the same name for its own."""
    try:
        foreign = importlib.metadata.version("partyline")
    except importlib.metadata.PackageNotFoundError:
        return ok("package", f"partyline-server {__version__}")
    return warning(
        "package",
        f"partyline-server {__version__} beside partyline {foreign}, another project whose files have the same names",
        "pip uninstall partyline, then pip install --force-reinstall partyline-server",
    )


def _uvloop() -> Finding:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return warning("uvloop", "not installed: asyncio's own loop is slower", "pip install uvloop")
    return ok("uvloop", importlib.metadata.version("uvloop"))


def _sqlite() -> Finding:
    with closing(sqlite3.connect(":memory:")) as connection:
        options = {option for (option,) in connection.execute("PRAGMA compile_options")}
        safety = next((option for option in options if option.startswith("THREADSAFE=")), "THREADSAFE unknown")
        what = f"{sqlite3.sqlite_version}, {safety}"
        if safety == "THREADSAFE=0":
            return problem("sqlite", f"{what}: it may be used by one thread only", "use a Python with another SQLite")
        if "OMIT_WAL" in options:
            return problem("sqlite", f"{what}, without WAL", "use a Python with another SQLite")
        try:
            connection.executescript(resources.files("partyline.stores").joinpath("sqlite.sql").read_text("utf-8"))
            connection.execute("SELECT json_group_array(value), sum(value) OVER () FROM json_each('[1]')").fetchall()
        except sqlite3.Error as error:
            return problem("sqlite", f"{what} is too old: {error}", "use a Python with SQLite 3.38 or later")
    return ok("sqlite", what)


def _descriptors(settings: Settings) -> Finding:
    limit, connections = descriptor_limit(), max_connections(settings)
    text = f"{limit:,}, enough for {connections:,} connections"
    if connections < FEW and settings.max_connections is None:
        return warning("descriptors", text, "raise the limit: ulimit -n, or LimitNOFILE= of the service")
    return ok("descriptors", text)


def port(settings: Settings) -> Finding:
    """Whether a server could listen where these settings say, or which process does."""
    where = f"{settings.port} on {settings.host}"
    if settings.port == 0:
        return ok("port", "a free one will be used")
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                one = socket.socket(family, kind, protocol)
            except OSError:
                continue  # a family that this machine does not have: a server goes without it, too
            with one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _taken(settings, where)
        if error.errno in (errno.EACCES, errno.EPERM):
            return problem("port", f"{where} needs more rights", "choose one from 1024 up with --port")
        return problem("port", f"{where} cannot be used: {error.strerror or error}", "choose another with --host")
    return ok("port", f"{where} is free")


def _taken(settings: Settings, where: str) -> Finding:
    listeners = _listeners(settings.port)
    try:
        server = None if settings.db == ":memory:" else lock.holder(settings.db)
    except OSError:
        server = None
    if server is not None and server.pid in listeners:
        return ok("port", f"{where}: the server that has the database listens there (process {server.pid})")
    if server is not None and (parent := _parent(server.pid)) in listeners:
        return ok(
            "port", f"{where}: the server that has the database listens there (process {parent}, with its workers)"
        )
    who = ", ".join(f"process {pid} ({name})" for pid, name in sorted(listeners.items())) or "another user's process"
    return problem("port", f"{where} is in use by {who}", "stop it, or choose another with --port")


def _parent(pid: int | None) -> int:
    """The process that has started another one; 0 if that is not known."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _listeners(port: int) -> dict[int, str]:
    """The processes of this user that listen on a port, with their names (not their arguments: keys may be there)."""
    sockets: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text("ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    found: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(link) in sockets for link in process.joinpath("fd").iterdir()):
                found[int(process.name)] = process.joinpath("comm").read_text().strip()
        except OSError:  # another user's, or gone by now
            continue
    return found


def _space(folder: str, db: str) -> Finding:
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    try:
        size = os.stat(db).st_size
    except OSError:
        size = 0
    text = f"{free:,} bytes free in {folder}"
    if free < _SPACE_OUT:
        return problem("disk", text, "make room: on a full disk every durable publish is refused (503)")
    if free < max(_SPACE_LOW, size):
        return warning("disk", text, "make room: a backup or a restore needs as much as the database")
    return ok("disk", text)


def filesystem(folder: str, mounts: str = "/proc/self/mountinfo") -> Finding:
    """The kind of filesystem that a folder is on, and whether a database is safe there."""
    try:
        lines = Path(mounts).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return warning("filesystem", f"unknown for {folder}", "make sure that it is a disk of this machine")
    kind, longest = "unknown", -1
    for line in lines:  # proc(5): ... mount point ... - type ...
        before, _, rest = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        if len(point) >= longest and Path(folder).is_relative_to(point):
            kind, longest = rest.split()[0], len(point)
    if _NETWORK.fullmatch(kind):
        advice = "put the database on a disk of this machine: a write-ahead log breaks on a network filesystem"
        return problem("filesystem", f"{kind}, over a network", advice)
    if kind in _PASSING:
        return warning("filesystem", f"{kind}: {_PASSING[kind]}", "put the database on a disk, or a volume")
    return ok("filesystem", kind)


def settings_finding(error: ConfigError) -> Finding:
    """The finding for settings that a server would refuse."""
    if error.field == "config":
        return problem("settings", error.message, "fix the file, or name another one with --config")
    return problem("settings", error.message, "fix it; `partyline config --show` lists all of them then")
