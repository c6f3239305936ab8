"""docs/reference/hostile.md: every row has tests, and the page names their files."""

from __future__ import annotations

import pytest

from tests.hostile import PAGE, filled, proofs, rows

# Rows without a test yet. Exact: whoever writes one takes its row out.
PENDING: set[str] = set()


@pytest.mark.check
def test_every_row_has_a_test() -> None:
    """Each row from 17 to 60 is on the page once, in order, and at least one test names it."""
    listed = rows(PAGE.read_text("utf-8"))
    numbers = [str(number) for number in range(17, 61)]
    numbers.insert(numbers.index("34") + 1, "34b")
    assert listed == numbers
    assert set(numbers).difference(proofs()) == PENDING


@pytest.mark.check
def test_the_page_names_the_files() -> None:
    """The last column is what `python -m tests.hostile` makes of the docstrings."""
    text = PAGE.read_text("utf-8")
    assert filled(text) == text, "run `python -m tests.hostile`"
