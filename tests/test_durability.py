"""What an accepted message survives: said by doctor and by /health, and refused where it is less than required."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from partyline import ConfigError, Settings, running
from partyline.config import FIELDS
from partyline.interfaces import Durability
from partyline.stores.shared import SharedStore
from partyline.testing import MemoryLog
from tests.calls import call
from tests.cli.commands import run as run_command


def test_the_words_of_settings_are_those_of_stores() -> None:
    """What the setting may be is what a store may say, weakest first."""
    words = FIELDS["require_durability"].metadata["choices"]
    assert tuple(str(durability) for durability in Durability) == words
    assert len({durability.survived for durability in Durability}) == len(words)


@pytest.mark.parametrize(
    ("file", "required", "starts"),
    [
        (False, "nothing", True),
        (False, "window", False),
        (True, "window", True),
        (True, "power-cut", True),
        (True, "machine", False),
    ],
)
def test_a_log_that_keeps_less_is_refused(tmp_path: Path, file: bool, required: str, starts: bool) -> None:
    """A server whose log keeps less than `require_durability` does not start, and says what the log keeps."""
    db = str(tmp_path / "partyline.db") if file else ":memory:"

    async def main() -> None:
        async with running(Settings(port=0, db=db, require_durability=required)):
            pass

    if starts:
        asyncio.run(main())
        return
    with pytest.raises(ConfigError, match=f"require_durability: {required} is required, and with db = ") as caught:
        asyncio.run(main())
    assert caught.value.field == "require_durability"
    kept = Durability.POWER_CUT if file else Durability.NOTHING
    assert kept.survived in caught.value.message


def test_an_unknown_word_is_refused() -> None:
    """A durability that there is not is refused with all that there are."""
    with pytest.raises(ConfigError, match=r"require_durability: .*is not one of nothing, window, power-cut, machine"):
        Settings(require_durability="everything")


@pytest.mark.parametrize(("required", "verdict"), [("power-cut", "ok"), ("machine", "problem")])
def test_doctor_says_it(tmp_path: Path, required: str, verdict: str) -> None:
    """`partyline doctor` says what an accepted message survives, and finds what is too little."""
    done = run_command("doctor", "--db", str(tmp_path / "p.db"), "--set", f"require_durability={required}")
    (line,) = [line for line in done.stdout.splitlines() if "survives" in line]
    assert line.startswith(verdict)
    assert "a power cut" in line


@pytest.mark.parametrize("durability", Durability)
def test_health_says_what_an_engine_promises(durability: Durability) -> None:
    """/health says what a log promises that other nodes use, too; with a log of its own it is as it always was."""

    async def main() -> None:
        async with running(Settings(port=0, db=":memory:")) as (partyline, url):
            assert await call(f"{url}/health") == (200, {"status": "ok"})
            shared: Any = await SharedStore.open(MemoryLog(durability=durability).handle())
            partyline.relay._services = replace(partyline.relay._services, store=shared)
            assert await call(f"{url}/health") == (200, {"status": "ok", "durability": str(durability)})

    asyncio.run(main())
