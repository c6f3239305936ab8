"""What a test needs that Python alone does not bring: found, or skipped with how to get it.

`PARTYLINE_REQUIRE=all` turns each of these skips into a failure (.ci/run sets it, and installs them).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

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
}


def missing(what: str, how: str) -> None:
    """Skip the running test, or fail it where nothing may be missing."""
    text = f"needs {what}: {how}"
    if os.environ.get("PARTYLINE_REQUIRE") == "all":
        pytest.fail(text)
    pytest.skip(text)


def program(name: str) -> str:
    """The path of a program."""
    path = shutil.which(name)
    if path is None:
        missing(name, _HOW.get(name, f"install {name}"))
    assert path is not None
    return path


def playwright() -> None:
    """Playwright's Python package; the browser is Debian's."""
    if importlib.util.find_spec("playwright") is None:
        missing("playwright", "python -m pip install playwright")


def schemathesis() -> list[str]:
    """How to run schemathesis."""
    path = Path(sys.executable).parent / "schemathesis"
    if not path.exists():
        missing("schemathesis", "python -m pip install schemathesis")
    return [str(path)]


def node_package(name: str, version: str) -> Path:
    """The folder of an npm package of this version; installed on first use, into tests/node_modules."""
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
