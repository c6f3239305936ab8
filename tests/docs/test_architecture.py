"""docs/architecture.md against the code: its layout, paths and places, its tables of transitions, its import order."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import pytest
from bench.walks import BEGIN, BOUNDS, END, Walk, missed

from partyline.server import states as server_states
from partyline.socketio import states as socket_states
from partyline.wire.engineio import states
from partyline.wire.http import phases
from partyline.wire.socketio import namespaces
from partyline.wire.websocket import codec
from tests.tools import ROOT

PACKAGE = ROOT / "src" / "partyline"
PAGE = ROOT / "docs" / "architecture.md"
_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\([^)]*\)")
_FILE = re.compile(r"(?<![\w/.-])(?:[\w.-]+/)*[\w-]+\.(?:py|sql|md|toml|typed)\b")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
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
    """The folders of the layout below the package."""
    _, *lines = fence("Layout").splitlines()
    paths: list[str] = []
    above: list[str] = []
    for line in lines:
        name, about = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        assert about, f"{name} has no description"
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth - 1 :] = [name]
        paths.append("".join(above))
    return paths


def test_layout() -> None:
    """The layout names every folder of the package once, and no other."""
    there = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("*.*") if "cache" not in str(path.parent)}
    assert sorted(layout()) == sorted(f"{folder.as_posix()}/" for folder in there - {Path()})


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
        ("http transitions", phases.TRANSITIONS),
        ("transitions", codec.TRANSITIONS),
        ("connection transitions", server_states.TRANSITIONS),
        ("engineio transitions", states.TRANSITIONS),
        ("socketio transitions", namespaces.TRANSITIONS),
        ("socket transitions", socket_states.TRANSITIONS),
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
    """The documented order of imports, lowest layer first, is the contract that import-linter checks."""
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


def test_places() -> None:
    """Every class and function in the table of where to change what is in the file that the table gives."""
    _, _, rest = page().partition("<!-- places -->\n")
    named = re.findall(r"`([\w/]+\.py): ([\w.]+)`", rest.partition("<!-- /places -->")[0])
    assert len(named) > 20
    assert [f"{file}: {name}" for file, name in named if name not in definitions(PACKAGE / file)] == []


def definitions(path: Path) -> set[str]:
    """The classes and functions of a file, and the methods of its classes."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, _FUNCTIONS)}
        elif isinstance(node, _FUNCTIONS):
            found.add(node.name)
    return found


def test_walks() -> None:
    """What one message takes is within its bounds, and exactly what the page says. `make walks` writes it."""
    done = subprocess.run([sys.executable, "-m", "bench.walks"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    _, _, rest = page().partition(BEGIN)
    assert rows(rest.partition(END)[0]) == rows(done.stdout)


def test_a_walk_that_is_too_long() -> None:
    """A bound that is missed by one is told, with the figure and the bound."""
    names = iter(BOUNDS)
    event, emit = (Walk(70, 70, 12, 12, 0, 2) for _ in range(2))
    assert missed({next(names): event, next(names): emit}) == [
        "a Socket.IO event to its handler and back takes 70 calls, and may take 29"
    ]


def rows(table: str) -> dict[str, list[int]]:
    """The numbers in the rows of a table of Markdown, by their first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {first: [int(cell or 0) for cell in rest] for first, *rest in cells}
