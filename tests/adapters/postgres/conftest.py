"""One PostgreSQL for all tests that leave it as it was; each has a schema of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.adapters.postgres.server import PostgresServer, postgres_server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A running server."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        yield runner.run(stack.enter_async_context(postgres_server()))
        runner.run(stack.aclose())


@pytest.fixture
def fresh(server: PostgresServer) -> Callable[[], str]:
    """The address of a log that there is not yet, each time."""
    return lambda: server.url(schema=f"log{next(_numbers)}")
