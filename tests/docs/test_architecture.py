"""docs/architecture.md against the code: its layout, its paths, its table of transitions, its import order."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import pytest

from partyline.wire.engineio import session
from partyline.wire.socketio import namespaces
from partyline.wire.websocket import connection
from tests.tools import ROOT

PACKAGE = ROOT / "src" / "partyline"
PAGE = ROOT / "docs" / "architecture.md"
_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\([^)]*\)")
_FILE = re.compile(r"(?<![\w/.-])(?:[\w.-]+/)*[\w-]+\.(?:py|sql|md|toml|typed)\b")
_FOLDER = re.compile(r"`((?:[\w.-]+/)+)`")


def page() -> str:
    return PAGE.read_text("utf-8")


def fence(heading: str) -> str:
    """The first fenced block below a heading."""
    _, found, below = page().partition(f"\n## {heading}\n")
    assert found, f"there is no heading {heading!r}"
    block = _FENCE.search(below)
    assert block is not None
    return block[1]


def layout() -> list[str]:
    """The paths of the layout below the package; those of folders end with a slash."""
    first, *lines = fence("Layout").splitlines()
    assert first == "src/partyline/"
    paths: list[str] = []
    above: list[str] = []
    for line in lines:
        name, about = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        assert about, f"{name} has no description"
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth - 1 :] = [name]
        paths.append("".join(above))
    return paths


def package_files() -> set[Path]:
    """The files of the package: what git knows, or in an unpacked archive whatever is there but caches."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files"], cwd=PACKAGE, capture_output=True, text=True, check=True)
        return {Path(line) for line in listed.stdout.splitlines()}
    return {
        path.relative_to(PACKAGE)
        for path in PACKAGE.rglob("*")
        if path.is_file() and not any(part == "__pycache__" or part.endswith("_cache") for part in path.parts)
    }


def test_layout() -> None:
    """The layout names every file and folder of the package once, and nothing that is not there."""
    there = package_files()
    packages = {path.parent for path in there if path.name == "__init__.py"} - {Path()}
    wanted = {path.as_posix() for path in there if path.name != "__init__.py" or path.parent == Path()}
    wanted |= {f"{package.as_posix()}/" for package in packages}  # a folder's line stands for its __init__.py
    named = layout()
    assert sorted(named) == sorted(wanted)


def test_paths_exist() -> None:
    """Every file and folder named in the text and in the pictures exists, from the root, the package or docs."""
    text = _LINK.sub("]", page().replace(fence("Layout"), ""))
    named = {match[0] for match in _FILE.finditer(text)} | {match[1] for match in _FOLDER.finditer(text)}
    assert len(named) > 20
    missing = {name for name in named if not any((base / name).exists() for base in (ROOT, PACKAGE, PAGE.parent))}
    assert not missing


@pytest.mark.parametrize(
    ("name", "transitions"),
    [
        ("transitions", connection.TRANSITIONS),
        ("engineio transitions", session.TRANSITIONS),
        ("socketio transitions", namespaces.TRANSITIONS),
    ],
)
def test_transitions(name: str, transitions: Mapping[tuple[Enum, Enum], Enum]) -> None:
    """The table between the markers is the state machine's table in the code."""
    rows = [f"| {state.value} | {step.value} | {after.value} |" for (state, step), after in transitions.items()]
    wanted = ["| state | step | next state |", "| --- | --- | --- |", *rows]
    _, opened, rest = page().partition(f"<!-- {name} -->\n")
    table, closed, _ = rest.partition(f"\n<!-- /{name} -->")
    assert opened
    assert closed
    assert table.splitlines() == wanted, "the table should be:\n" + "\n".join(wanted)


def test_import_order() -> None:
    """The documented order of imports, from the bottom up, is the contract that import-linter checks."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    wanted = []
    for layer in reversed(layers):
        # Names in parentheses are optional layers: not there yet.
        names = {name.strip().removeprefix("partyline.") for name in layer.split("|") if "(" not in name}
        if names:
            wanted.append(names)
    documented = [
        {name.strip() for name in re.split(r"\s{2,}", line)[0].split("|")}
        for line in fence("Imports run one way").splitlines()
    ]
    assert documented == wanted
