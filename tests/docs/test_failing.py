"""Every row of "When something fails" is a test by name, for each engine that has it; the page's table names them."""

from __future__ import annotations

import ast
from typing import Final

import pytest

from tests.tools import ROOT

PAGE: Final = ROOT / "docs" / "howto" / "scale-out.md"

_FAULTS: Final = "adapters/postgres/test_faults.py"
_REDIS: Final = "adapters/test_redis_log_failing.py"
_FAILING: Final = "kills/test_failing.py"
_KILLS: Final = "kills/test_kills.py::test_kills_under_load"
_NATS: Final = "adapters/nats/test_failing.py"
_WORKERS: Final = "e2e/test_workers.py"
_STORE: Final = "contracts/test_shared.py"

ROWS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "the engine is down at start": {
        "nats": ("adapters/nats/test_bus.py::test_a_nats_that_is_down_at_start",),
        "postgres": (f"{_FAULTS}::test_an_engine_that_is_down_at_start",),
        "redis": ("adapters/test_redis_servers.py::test_a_server_whose_redis_is_down_at_start",),
    },
    "the engine goes, and comes back": {
        "keeper": (_KILLS,),
        "nats": (
            f"{_NATS}::test_a_nats_that_goes_and_comes_back",
            "adapters/nats/test_bus.py::test_a_nats_that_goes",
            f"{_FAILING}::test_what_is_not_kept_goes_on_without_the_engine",
            _KILLS,
        ),
        "postgres": (
            "adapters/postgres/test_servers.py::test_a_publish_without_the_engine_is_a_503",
            "adapters/postgres/test_bus.py::test_a_postgresql_that_goes_and_comes_back",
            f"{_FAILING}::test_what_is_not_kept_goes_on_without_the_engine",
            _KILLS,
        ),
        "redis": (
            "adapters/test_redis_servers.py::test_a_server_whose_redis_goes",
            "adapters/test_redis_servers.py::test_a_bus_whose_redis_goes",
            f"{_FAILING}::test_what_is_not_kept_goes_on_without_the_engine",
            _KILLS,
        ),
    },
    "the engine hangs, or the way to it is half open": {
        "keeper": (f"{_WORKERS}::test_a_keeper_that_hangs",),
        "nats": (f"{_NATS}::test_a_nats_that_hangs", f"{_NATS}::test_a_line_that_is_half_open"),
        "postgres": (
            f"{_FAULTS}::test_an_engine_that_hangs_refuses_in_time_and_heals",
            f"{_FAULTS}::test_a_line_that_breaks_or_is_half_open",
        ),
        "redis": (f"{_REDIS}::test_a_redis_that_hangs", f"{_REDIS}::test_a_line_that_is_half_open"),
    },
    "the engine is full, or refuses the password": {
        "nats": (f"{_NATS}::test_a_nats_that_is_full", f"{_NATS}::test_a_password_that_changes"),
        "postgres": (
            f"{_FAULTS}::test_an_engine_that_is_full_refuses_and_heals",
            f"{_FAULTS}::test_a_wrong_password_is_told_and_mended",
        ),
        "redis": (f"{_REDIS}::test_a_redis_that_is_full", f"{_REDIS}::test_a_password_that_changes"),
    },
    "a server is killed": {
        "keeper": (_KILLS, f"{_WORKERS}::test_rooms_of_an_application_span_workers"),
        "nats": (_KILLS, f"{_FAILING}::test_a_question_does_not_wait_for_the_dead"),
        "postgres": (
            _KILLS,
            f"{_FAULTS}::test_a_node_that_is_killed_holds_nothing",
            f"{_FAILING}::test_a_question_does_not_wait_for_the_dead",
        ),
        "redis": (_KILLS, f"{_FAILING}::test_a_question_does_not_wait_for_the_dead"),
    },
    "a server hangs": {
        "keeper": (f"{_FAILING}::test_a_node_that_hangs",),
        "nats": (f"{_FAILING}::test_a_node_that_hangs",),
        "postgres": (f"{_FAILING}::test_a_node_that_hangs",),
        "redis": (f"{_FAILING}::test_a_node_that_hangs",),
    },
    "a server is slower than retention": {
        "nats": (f"{_FAILING}::test_a_node_that_is_slower_than_retention",),
        "postgres": (
            f"{_FAILING}::test_a_node_that_is_slower_than_retention",
            f"{_STORE}::test_retention_that_overtakes_a_node_is_told",
        ),
        "redis": (
            f"{_FAILING}::test_a_node_that_is_slower_than_retention",
            f"{_STORE}::test_retention_that_overtakes_a_node_is_told",
        ),
    },
    "a failover loses the end of the log": {
        "nats": (
            f"{_NATS}::test_an_older_copy_is_told",
            f"{_NATS}::test_a_restart_that_may_have_lost_something_is_told",
        ),
        "postgres": (
            f"{_FAULTS}::test_a_promoted_standby_has_a_new_epoch",
            f"{_FAULTS}::test_no_append_goes_to_a_server_that_was_promoted_meanwhile",
        ),
        "redis": (f"{_REDIS}::test_a_failover_with_loss_is_told", f"{_REDIS}::test_an_older_copy_is_told"),
    },
    "the keeper dies": {"keeper": (f"{_WORKERS}::test_kill_9_under_load", _KILLS)},
    "a worker dies": {
        "keeper": (
            f"{_WORKERS}::test_kill_9_under_load",
            f"{_WORKERS}::test_registrations_outlive_their_worker",
            "workers/test_elsewhere.py::test_an_owner_that_is_gone_has_no_sessions",
        )
    },
}
"""By the row, and by what has the log, the tests of it."""


def _functions(path: str) -> dict[str, str]:
    """The tests of a file, each with its text."""
    text = (ROOT / "tests" / path).read_text("utf-8")
    return {
        node.name: ast.get_source_segment(text, node) or ""
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(("row", "engine"), [(row, engine) for row, engines in ROWS.items() for engine in engines])
def test_each_row_has_its_tests(row: str, engine: str) -> None:
    """Each test that a row names is there, and asserts something."""
    for name in ROWS[row][engine]:
        path, _, function = name.partition("::")
        text = _functions(path).get(function)
        assert text, f"{row}, {engine}: there is no {name}"
        assert "assert" in text or "trial(" in text, name


def test_the_page_has_each_row() -> None:
    """docs/howto/scale-out.md has a table with exactly these rows."""
    section = PAGE.read_text("utf-8").partition("## When a part fails")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    assert rows == ["event", "---", *ROWS]
