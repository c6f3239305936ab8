"""How many processes serve, and who may start them."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from partyline import Settings, build
from partyline.checking import check, worker_count
from partyline.errors import ConfigError


def test_auto_is_one_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` counts the cores that this process may use, `1` is the default."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5})
    assert worker_count(Settings(workers="auto")) == 3  # type: ignore[arg-type]
    assert worker_count(Settings()) == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"workers": 257}, "run one for each core"),
        ({"chat": True}, "chat: .* leave it out"),
        ({"log": "redis://here"}, "log: .* leave it out"),
    ],
)
def test_what_several_cannot_share(more: dict[str, Any], says: str) -> None:
    """A setting that needs one process is refused beside several, with the way out."""
    with pytest.raises(ConfigError, match=says):
        check(Settings(**{"workers": 2, **more}))


def test_a_program_is_one_process() -> None:
    """`build` does not serve with one process in silence where several were asked for."""

    async def main() -> None:
        with pytest.raises(ConfigError, match="partyline serve"):
            build(Settings(workers=2, db=":memory:"))

    asyncio.run(main())
