"""docs/reference/guarantees.md names the tests that prove each promise: they exist."""

from __future__ import annotations

import ast
import re

import pytest

from tests.tools import ROOT

PAGE = ROOT / "docs" / "reference" / "guarantees.md"
_NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`")
_PROMISE = re.compile(r"^### (\d+)\. .+?(?=^##)", re.DOTALL | re.MULTILINE)


def proofs(text: str) -> list[tuple[str, str]]:
    """(file, test) for each named test; the file may be given with an earlier one. A file alone has no test."""
    found: list[tuple[str, str]] = []
    file = ""
    for match in _NAMED.finditer(text):
        if match[1] or match[2]:
            file = match[1] or file
            found.append((file, match[2] or ""))
    return found


@pytest.mark.check
def test_every_proof_exists() -> None:
    """Each test that the page names is there, and each of the eight promises names some."""
    promises = _PROMISE.findall(PAGE.read_text("utf-8"))
    assert promises == [str(number) for number in range(1, 9)]
    for match in _PROMISE.finditer(PAGE.read_text("utf-8")):
        named = proofs(match[0])
        assert named, f"promise {match[1]} names no test"
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text("utf-8"))
            tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert not test or test in tests, f"{file}::{test} does not exist"
