"""What doctor finds in a database: each damage once, by position, and never any content."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from pathlib import Path

import pytest

from partyline.findings import Finding, Verdict
from partyline.stores.sqlite import opening
from partyline.stores.sqlite.examining import examine
from tests.stores.sqlite.test_copying import filled

from .conftest import Open
from .logs import change, opened, rows


def found(path: Path, *, deep: bool = False) -> dict[str, Finding]:
    """The findings by subject."""
    findings = list(examine(str(path), deep=deep))
    assert len({one.subject for one in findings}) == len(findings)
    assert all(one.advice for one in findings if one.verdict is not Verdict.OK)
    return {one.subject: one for one in findings}


def bad(path: Path, *, deep: bool = False) -> dict[str, Verdict]:
    """The subjects that are not fine, with their verdicts."""
    return {name: one.verdict for name, one in found(path, deep=deep).items() if one.verdict is not Verdict.OK}


@pytest.mark.parametrize("deep", [False, True])
def test_a_healthy_database(path: Path, deep: bool) -> None:
    """A sound database has only fine findings, with or without a running server, and stays unchanged."""
    epoch = filled(path, 50)
    before = path.read_bytes()
    assert bad(path, deep=deep) == {}
    assert path.read_bytes() == before

    async def run() -> None:
        async with opened(path) as log:
            await log.keep(10)
            findings = await asyncio.to_thread(found, path, deep=deep)
            assert {one.verdict for one in findings.values()} == {Verdict.OK}
            assert f"process {os.getpid()}" in findings["lock"].text
            assert f"epoch {epoch}, last offset 60" in findings["log"].text
            assert "60 messages" in findings["messages"].text
            assert await log.keep() == [61], "the server goes on"

    asyncio.run(run())


def test_damaged_messages_are_named_by_position(path: Path) -> None:
    """Each damaged message is named by its position; the content of messages is never shown (hostile 4, 39)."""
    epoch = filled(path, 100, b'"secret"')
    for offset in (3, 50, 99):
        change(path, "UPDATE log SET data = ? WHERE offset = ?", b'"SECRET"', offset)
    finding = found(path)["messages"]
    assert finding.verdict is Verdict.PROBLEM
    assert finding.positions == tuple(f"{epoch}-{offset}" for offset in (3, 50, 99))
    assert all(position in finding.text for position in finding.positions)
    assert not [one for one in examine(str(path), deep=True) if "secret" in f"{one.text}{one.advice}".lower()]


def test_deep_looks_at_all(path: Path) -> None:
    """Without deep the newest 10,000 messages are verified, as at a server's start; with deep all are, and progress is
    shown."""
    epoch = filled(path, 12_000)
    for offset in range(1, 31):
        change(path, "UPDATE log SET checksum = checksum + 1 WHERE offset = ?", offset)
    assert "messages" not in bad(path)
    seen: list[tuple[str, int, int]] = []
    findings = {one.subject: one for one in examine(str(path), deep=True, progress=lambda *one: seen.append(one))}
    assert findings["messages"].verdict is Verdict.PROBLEM
    assert len(findings["messages"].positions) == 30
    assert "and 10 more" in findings["messages"].text
    assert f"{epoch}-30" not in findings["messages"].text
    assert [(done, total) for what, done, total in seen if "messages" in what][-1] == (12_000, 12_000)


def test_an_index_that_is_not_right(path: Path) -> None:
    """With deep an index that lost a message is found."""
    filled(path, 50)
    (page,) = rows(path, "SELECT rootpage FROM sqlite_master WHERE name = 'log_by_room'")[0]
    assert isinstance(page, int)
    content = bytearray(path.read_bytes())
    start = (page - 1) * 4096
    cells = int.from_bytes(content[start + 3 : start + 5], "big")
    content[start + 3 : start + 5] = (cells - 1).to_bytes(2, "big")
    path.write_bytes(content)
    assert bad(path, deep=True)["structure"] is Verdict.PROBLEM


def test_other_files(path: Path, tmp_path: Path) -> None:
    """A missing file is fine; a missing folder, a folder, another program's database, a newer version and a file that
    is not a database are each a problem with its way out."""
    assert bad(path) == {}
    assert "does not exist yet" in found(path)["database"].text
    assert bad(tmp_path / "none" / "x.db") == {"database": Verdict.PROBLEM}
    assert bad(tmp_path) == {"database": Verdict.PROBLEM}
    foreign = tmp_path / "foreign.db"
    change(foreign, "CREATE TABLE bills (amount)")
    foreign.chmod(0o600)
    assert bad(foreign) == {"content": Verdict.PROBLEM}
    assert "another program" in found(foreign)["content"].text
    assert "--db" in found(foreign)["content"].advice
    text = tmp_path / "text.db"
    text.write_text("nothing of the kind" * 100)
    text.chmod(0o600)
    assert bad(text) == {"content": Verdict.PROBLEM}
    filled(path)
    change(path, "PRAGMA user_version = 1000")
    assert bad(path) == {"content": Verdict.PROBLEM}
    assert "newer Partyline" in found(path)["content"].text


def test_wide_rights_and_an_interrupted_restore(path: Path) -> None:
    """Rights beyond the owner's and an interrupted restore are worth knowing, but not a problem."""
    filled(path)
    path.chmod(0o644)
    assert bad(path) == {"database": Verdict.WARNING}
    assert "0644" in found(path)["database"].text
    assert stat.S_IMODE(path.stat().st_mode) == 0o644, "doctor changes nothing"
    path.chmod(0o600)
    Path(f"{path}{opening.RESTORED}").write_bytes(path.read_bytes())
    assert bad(path) == {"restore": Verdict.WARNING}


def test_a_cut_database(path: Path) -> None:
    """A file that was cut off is a problem, not a failure of doctor (hostile 4)."""
    filled(path, 2_000)
    path.write_bytes(path.read_bytes()[:50_000])
    for deep in (False, True):
        assert Verdict.PROBLEM in bad(path, deep=deep).values()


def test_a_file_that_the_server_has_not_open(path: Path, open_database: Open) -> None:
    """When the file of a running server was moved away and replaced, doctor says that this is another file (hostile
    54)."""
    filled(path, 3)
    open_database()
    path.rename(path.with_name("moved.db"))
    shutil.copy(path.with_name("moved.db"), path)
    finding = found(path)["lock"]
    assert finding.verdict is Verdict.PROBLEM
    assert "not the file that it has open" in finding.text


def test_two_names_of_one_file(path: Path, open_database: Open) -> None:
    """A hard link is a warning; a server that opened the file by the other name is a problem (hostile 54)."""
    filled(path, 3)
    other = path.parent / "b" / "partyline.db"
    other.parent.mkdir()
    os.link(path, other)
    finding = found(path)["lock"]
    assert (finding.verdict, "2 names" in finding.text) == (Verdict.WARNING, True)
    open_database()
    finding = found(other)["lock"]
    assert (finding.verdict, "not by this name" in finding.text) == (Verdict.PROBLEM, True)
