"""The lifespan of an application that we serve."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from partyline.errors import ConfigError
from partyline.server.lifespan import lifespan
from tests.server.peers import WITHIN


class App:
    """An application that answers as told. `seen` has what it was asked."""

    def __init__(self, *answers: str, raises: bool = False) -> None:
        self.answers = list(answers)
        self.raises = raises
        self.seen: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        while self.answers:
            self.seen.append((await receive())["type"])
            scope["state"]["asked"] = len(self.seen)
            answer = self.answers.pop(0)
            await send({"type": f"lifespan.{answer}", "message": "Traceback\n  no disk\n"})
        if self.raises:
            raise RuntimeError("I know no lifespan")


async def within(app: App) -> dict[str, Any]:
    async with asyncio.timeout(WITHIN), lifespan(app) as state:
        return dict(state)


def test_startup_and_shutdown() -> None:
    """The application starts before the block, gives it its state, and shuts down after it."""
    app = App("startup.complete", "shutdown.complete")
    assert asyncio.run(within(app)) == {"asked": 1}
    assert app.seen == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize("raises", [True, False])
def test_an_application_without_one(raises: bool) -> None:
    """An application that raises, or returns without an answer, has no lifespan and is served all the same."""
    assert asyncio.run(within(App(raises=raises))) == {}


@pytest.mark.parametrize("raises", [True, False])
def test_a_startup_that_fails(raises: bool) -> None:
    """A failed start-up is a ConfigError with the last line of the message; the block is not entered."""
    app = App("startup.failed", raises=raises)
    with pytest.raises(ConfigError, match=r"start-up failed: .*no disk$"):
        asyncio.run(within(app))
    assert app.seen == ["lifespan.startup"]


@pytest.mark.parametrize("raises", [True, False])
def test_a_shutdown_that_fails(raises: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A failed shutdown is logged; one that ends without a message does not hold anything up."""
    asyncio.run(within(App("startup.complete", "shutdown.failed", raises=raises)))
    assert "the application's shutdown failed" in caplog.text
    asyncio.run(within(App("startup.complete", raises=raises)))


def test_an_error_in_the_block() -> None:
    """What is raised in the block propagates after the shutdown."""

    async def main(app: App) -> None:
        async with lifespan(app):
            raise KeyError("mine")

    app = App("startup.complete", "shutdown.complete")
    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main(app))
    assert app.seen == ["lifespan.startup", "lifespan.shutdown"]
