"""Builds the C programs and installs the Node packages, all below bench/.build."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

BENCH = Path(__file__).parent
ROOT = BENCH.parent
NATIVE = BENCH / "native"
PEERS = BENCH / "peers"
BUILD = BENCH / ".build"
NODE_MODULES = BUILD / "node" / "node_modules"

PROGRAMS = {
    "floor": ("floor.c", "ws.c"),
    "load": (
        *("load.c", "stream.c", "client.c", "payload.c", "echo.c", "listen.c", "http.c", "publish.c", "ws.c"),
        *("socketio.c", "polling.c"),
    ),
}


class Unavailable(Exception):
    """Something is not on this machine; the text says what, and how to get it."""


def compile_programs() -> str:
    """Compile the floor and the load generator; returns the compiler's version line."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("no C compiler: install gcc or clang so that `cc` is found")
    BUILD.mkdir(exist_ok=True)
    for program, sources in PROGRAMS.items():
        command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(BUILD / program)]
        command += [str(NATIVE / source) for source in sources]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"cc failed on {program}:\n{done.stderr}")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    return version.stdout.splitlines()[0]


def node_version() -> str:
    """The version of Node, once it and npm are there."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise Unavailable(f"no {tool}: install Node 18 or newer, which brings npm")
    return subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def install_node_package(name: str) -> str:
    """Install one package of peers/package.json at its pinned version; returns that version."""
    node_version()
    pinned: str = json.loads((PEERS / "package.json").read_text())["dependencies"][name]
    installed = NODE_MODULES / name / "package.json"
    if not installed.exists() or json.loads(installed.read_text())["version"] != pinned:
        folder = NODE_MODULES.parent
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(PEERS / "package.json", folder)
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"npm install failed; run it in {folder.relative_to(ROOT)} to see why")
    return pinned
