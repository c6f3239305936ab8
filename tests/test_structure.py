"""The shape of src: no import goes in a circle, and no file is long without a reason.

What does not hold yet is listed here. The lists are exact: whoever mends an entry takes it out.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.imports import circles, graph, modules
from tests.tools import ROOT

PACKAGE = ROOT / "src" / "partyline"

# Modules that know each other, at least by their types.
CIRCLES: set[frozenset[str]] = set()

# Files above the limit that do not say why.
LIMIT = 500
LONG: set[str] = set()
_REASON = re.compile(r"Long because \w+")


def test_no_import_goes_in_a_circle() -> None:
    """Imports, those for types among them, make no circle but the listed ones."""
    found = {
        frozenset(module.removeprefix("partyline.") for module in circle) for circle in circles(graph(modules(PACKAGE)))
    }
    assert found == CIRCLES, f"new: {list(map(sorted, found - CIRCLES))}, gone: {list(map(sorted, CIRCLES - found))}"


@pytest.mark.parametrize(
    "text",
    [
        "from package import two",
        "from package.two import name",
        "import package.two",
        "def f():\n    from package import two",
        "if TYPE_CHECKING:\n    from package.two import Name",
    ],
)
def test_a_circle_is_found(tmp_path: Path, text: str) -> None:
    """However a module imports another, a circle that it closes is found, and nothing beside it."""
    folder = tmp_path / "package"
    folder.mkdir()
    for name, content in {
        "__init__": "",
        "one": text,
        "two": "import package.three",
        "three": "",
        "four": text,
    }.items():
        (folder / f"{name}.py").write_text(content, "utf-8")
    assert circles(graph(modules(folder))) == []
    (folder / "three.py").write_text("from package import one", "utf-8")
    assert circles(graph(modules(folder))) == [frozenset({"package.one", "package.two", "package.three"})]


def test_long_files_say_why() -> None:
    """A file of more than 500 lines says in its first 15 why it is long: `Long because ...`."""
    silent = set()
    for path in PACKAGE.rglob("*.py"):
        lines = path.read_text("utf-8").splitlines()
        if len(lines) > LIMIT and not _REASON.search("\n".join(lines[:15])):
            silent.add(path.relative_to(PACKAGE).as_posix())
    assert silent == LONG


def test_every_file_says_what_it_is_for() -> None:
    """The first line of each module is a sentence about it; docs/architecture.md relies on that."""
    for path in PACKAGE.rglob("*.py"):
        first = path.read_text("utf-8").partition("\n")[0]
        assert re.match(r'"""\S.{10,}', first), path
