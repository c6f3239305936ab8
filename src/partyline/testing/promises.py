"""The promises of an interface as sentences, each with the check that proves it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

_Check = TypeVar("_Check", bound=Callable[..., Awaitable[None]])


def promises(*checks: _Check) -> dict[str, _Check]:
    """The checks, by their docstrings."""
    return {" ".join((check.__doc__ or "").split()): check for check in checks}


async def run_all(checks: Mapping[str, _Check], run: Callable[[_Check], Awaitable[None]]) -> None:
    """Run every check. Raises AssertionError, naming the promise that is not kept."""
    for promise, check in checks.items():
        try:
            await run(check)
        except AssertionError as error:
            error.add_note(f"the promise: {promise}")
            raise
