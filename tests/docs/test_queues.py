"""The table of queues in docs/architecture.md against the code: none is missing, and each counter exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.tools import ROOT

PACKAGE = ROOT / "src" / "partyline"
QUEUES = {"deque", "Queue", "SimpleQueue", "bytearray"}
# No peer fills these: they are a program's own, and it decides how much it takes.
OURS = {"cli", "client", "testing"}


def table() -> dict[str, list[str]]:
    """The rows of the table by their first cell."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = text.partition("<!-- queues -->\n")[2].partition("<!-- /queues -->")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {first.strip("`"): rest for first, *rest in cells}


def made(path: Path) -> Iterator[str]:
    """The attributes of objects in a file that are made as a queue or a buffer."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=value):
                pass
            case _:
                continue
        if isinstance(target, ast.Attribute) and isinstance(value, ast.Call):
            called = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
            bounded = any(keyword.arg == "maxlen" for keyword in value.keywords)
            if called in QUEUES and not bounded:
                yield target.attr


def test_every_queue_is_in_the_table() -> None:
    """Every queue without a `maxlen` has a row."""
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}: {name}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in OURS
        for name in made(path)
    }
    assert len(found) > 8
    assert found - table().keys() == set()


def test_every_row_is_in_the_code() -> None:
    """Each row names an attribute of its file, says what happens at the bound, and its counter is in limits.md."""
    limits = (ROOT / "docs" / "reference" / "limits.md").read_text("utf-8")
    for queue, (holds, bound, policy, counter) in table().items():
        file, _, name = queue.partition(": ")
        assert re.search(rf"\bself\.{name}\b", (PACKAGE / file).read_text("utf-8")), queue
        assert holds, queue
        assert bound, queue
        assert policy, queue
        counted = counter.removesuffix("*")  # a constant, not a setting
        assert counter == "-" or re.search(rf"\| {re.escape(counted)}[^|]*\|$", limits, re.MULTILINE), counter
