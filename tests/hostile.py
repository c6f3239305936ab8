"""The rows of docs/reference/hostile.md and the tests that prove them: `python -m tests.hostile` fills the last column.

A test names its row in its docstring, `hostile 34b` or `(row 34b)`, or in its own name, `test_hostile_34b_...`; in a
file `test_hostile.py` the name is `test_34b_...`.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.tools import ROOT

PAGE = ROOT / "docs" / "reference" / "hostile.md"
_ROW = re.compile(r"^\| (\d+b?) \|.*\|$", re.MULTILINE)
_NAMED = re.compile(
    r"(?:(?<![a-z])hostile[ _]|\(rows? |\btest_)(\d+b?(?:(?:, |[ _]and[ _])\d+b?)*)(?![\d.])", re.IGNORECASE
)


@cache
def proofs() -> dict[str, list[str]]:
    """The files with tests of each row, by its number."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "node_modules" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                text = f"{node.name} {ast.get_docstring(node) or ''}"
                for match in _NAMED.finditer(text):
                    for number in re.findall(r"\d+b?", match[1]):
                        found.setdefault(number, set()).add(path.relative_to(ROOT / "tests").as_posix())
    return {number: sorted(files) for number, files in found.items()}


def rows(text: str) -> list[str]:
    """The numbers of the rows of the page."""
    return [match[1] for match in _ROW.finditer(text)]


def filled(text: str) -> str:
    """The page with its last column made anew."""
    proven = proofs()

    def row(match: re.Match[str]) -> str:
        cells = match[0].strip("|").split(" | ")
        cells[-1] = ", ".join(f"`{file}`" for file in proven.get(match[1], [])) or "none"
        return f"| {' | '.join(cell.strip() for cell in cells)} |"

    return _ROW.sub(row, text)


def main() -> None:
    """Write the page."""
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")
    print(f"{PAGE.relative_to(Path.cwd())} is written")


if __name__ == "__main__":
    main()
