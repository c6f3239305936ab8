"""docs/tutorials/chat.md and the code that it shows."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

from tests.tools import ROOT

PACKAGE = ROOT / "src" / "partyline" / "chat"
PAGE = (ROOT / "docs" / "tutorials" / "chat.md").read_text("utf-8")


def test_excerpts() -> None:
    """Each piece of code that names a file is in that file, letter by letter."""
    excerpts = re.findall(r"^```python (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(excerpts) >= 7
    for name, code in excerpts:
        assert code in (PACKAGE / name).read_text("utf-8"), code


def code_lines(file: Path) -> int:
    """Lines that are neither empty nor comments nor docstrings."""
    source = file.read_text("utf-8")
    described: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node) is not None
        ):
            described.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    passed = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in passed:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - described)


def test_size() -> None:
    """The server side stays an example to read in one go: below 400 lines of code."""
    assert sum(code_lines(file) for file in PACKAGE.glob("*.py")) < 400
