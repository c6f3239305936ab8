"""The registrations table: written in the background, many rows per statement, the newest state of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.metrics import Counters
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.registrations import RegistrationTable, Row

from .conftest import Open
from .writer import Disk, Gate, Setback, query, settled

SIZES = (1, 7, 8, 9, 65, 512, 600, 1_200)


def row(number: int, **changes: object) -> Row:
    values = {
        "id_hash": number.to_bytes(32, "big"),
        "user": f"user{number}",
        "topics": ("cats", f"topic{number}"),
        "grants": (">",),
        "used": False,
        "created": 1_000.5 + number,
    }
    return Row(**{**values, **changes})  # type: ignore[arg-type]


def by_hash(rows: Iterator[Row]) -> dict[bytes, Row]:
    found = list(rows)
    named = {item.id_hash: item for item in found}
    assert len(named) == len(found)
    return named


@pytest.mark.parametrize("count", SIZES)
def test_every_number_of_rows_comes_back(opened: Open, count: int) -> None:
    """However many registrations are saved at once, the next process finds each of them whole."""
    database = opened()
    table = RegistrationTable(database)
    rows = [row(number) for number in range(count)]
    for item in rows:
        table.save(item)
    database.close()
    assert by_hash(RegistrationTable(opened()).load()) == {item.id_hash: item for item in rows}


@pytest.mark.parametrize("token", [None, (None, None), ("t1", None), (None, 1.5), ('"é\\', 1_800_000_000.25)])
def test_the_token_that_made_it_comes_back(opened: Open, token: tuple[str | None, float | None] | None) -> None:
    """The next process knows whether a token made a registration, and the token's id and time of issue."""
    database = opened()
    RegistrationTable(database).save(row(1, token=token))
    database.close()
    assert list(RegistrationTable(opened()).load()) == [row(1, token=token)]


@pytest.mark.parametrize("count", SIZES)
def test_every_number_of_rows_can_be_deleted(opened: Open, count: int) -> None:
    """However many registrations are deleted at once, exactly those are gone."""
    database = opened()
    table = RegistrationTable(database)
    for number in range(count + 3):
        table.save(row(number))
    settled(database)
    for number in range(count):
        table.delete(row(number).id_hash)
    database.close()
    left = by_hash(RegistrationTable(opened()).load())
    assert left == {item.id_hash: item for item in map(row, range(count, count + 3))}


def test_rows_are_written_many_at_a_time(opened: Open) -> None:
    """600 registrations take three statements and not 600, because each SQLite step costs a switch between threads."""
    database, gate, statements = opened(), Gate(), []  # type: ignore[var-annotated]
    database.submit(lambda connection: connection.set_trace_callback(statements.append))
    database.submit(gate)
    gate.reached()
    table = RegistrationTable(database)
    for number in range(600):
        table.save(row(number))
    gate.let_go()
    settled(database)
    inserts = [statement for statement in statements if statement.startswith("INSERT")]
    assert [statement.count("),(") + 1 for statement in inserts] == [512, 64, 64]


def test_a_registration_that_changes_often_is_written_once(opened: Open) -> None:
    """Of the changes made while the writer is busy, only the newest state of each registration is written."""
    database, gate, statements = opened(), Gate(), []  # type: ignore[var-annotated]
    database.submit(lambda connection: connection.set_trace_callback(statements.append))
    database.submit(gate)
    gate.reached()
    table = RegistrationTable(database)
    for turn in range(1_000):
        table.save(row(1, topics=(f"topic{turn}",)))
    gate.let_go()
    settled(database)
    inserts = [statement for statement in statements if statement.startswith("INSERT")]
    assert len(inserts) == 1
    assert "topic999" in inserts[0]
    assert by_hash(table.load()) == {row(1).id_hash: row(1, topics=("topic999",))}


@pytest.mark.parametrize("together", [True, False], ids=["in one commit", "in commits of their own"])
@pytest.mark.parametrize(
    ("changes", "left"),
    [
        (("save", "delete"), None),
        (("delete", "save"), 1),
        (("save", "delete", "save"), 2),
        (("save", "save", "delete"), None),
        (("delete",), None),
    ],
)
def test_the_last_change_counts(opened: Open, changes: tuple[str, ...], left: int | None, together: bool) -> None:
    """The last save or deletion of a registration wins, in one commit or in several."""
    database, gate = opened(), Gate()
    if together:
        database.submit(gate)
        gate.reached()
    table = RegistrationTable(database)
    table.save(row(2))
    saved = 0
    for change in changes:
        if change == "save":
            saved += 1
            table.save(row(1, topics=(str(saved),)))
        else:
            table.delete(row(1).id_hash)
        if not together:
            settled(database)
    gate.let_go()
    database.close()
    expected = {row(2).id_hash: row(2)}
    if left is not None:
        expected[row(1).id_hash] = row(1, topics=(str(left),))
    assert by_hash(RegistrationTable(opened()).load()) == expected


def test_a_change_during_a_retry_comes_after_it(opened: Open, setback: Setback) -> None:
    """A change made while earlier ones are being tried again wins, and the others are stored."""
    database, gate = opened(), Gate()
    table = RegistrationTable(database)
    database.submit(gate)
    gate.reached()
    table.save(row(1, topics=("earlier",)))
    table.save(row(2))
    table.save(row(4))

    disk = Disk()
    database.submit(disk)
    gate.let_go()
    setback.wait()
    table.save(row(1, topics=("later",)))
    table.delete(row(2).id_hash)
    table.save(row(3))
    disk.refuses = False
    settled(database)
    assert by_hash(table.load()) == {
        row(1).id_hash: row(1, topics=("later",)),
        row(3).id_hash: row(3),
        row(4).id_hash: row(4),
    }


def test_saving_waits_for_nothing(opened: Open, path: Path) -> None:
    """While the writer is held, saves and deletions return at once, and none of them is in the file."""
    database, gate = opened(), Gate()
    database.submit(gate)
    gate.reached()
    table = RegistrationTable(database)
    table.save(row(1))
    table.delete(row(2).id_hash)
    assert query(path, "SELECT count(*) FROM registrations") == [(0,)]
    gate.let_go()
    settled(database)
    assert query(path, "SELECT count(*) FROM registrations") == [(1,)]


def test_text_comes_back_as_it_was(opened: Open) -> None:
    """Quotes, brackets, other scripts and an empty list of topics survive in the file, and so do `used` and the
    time."""
    database = opened()
    table = RegistrationTable(database)
    item = row(1, user='"o\'neil"', topics=("['cats']", '日本.語"', "😀"), grants=(), used=True, created=1.25)
    bare = row(2, topics=())
    table.save(item)
    table.save(bare)
    database.close()
    assert by_hash(RegistrationTable(opened()).load()) == {item.id_hash: item, bare.id_hash: bare}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.integers(0, 9), st.integers(0, 99)),
        st.tuples(st.just("delete"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("commit"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@given(steps)
@settings(deadline=None)
def test_the_file_is_what_the_last_changes_made(taken: list[tuple[str, int, int]]) -> None:
    """Whatever is saved and deleted, in whatever commits, the file reads back what a dictionary would hold."""
    database = Database(":memory:", Counters())
    try:
        table = RegistrationTable(database)
        model: dict[bytes, Row] = {}
        for step, number, topic in taken:
            item = row(number, topics=(str(topic),))
            if step == "save":
                table.save(item)
                model[item.id_hash] = item
            elif step == "delete":
                table.delete(item.id_hash)
                model.pop(item.id_hash, None)
            else:
                settled(database)
        settled(database)
        assert by_hash(RegistrationTable(database).load()) == model
    finally:
        database.close()
