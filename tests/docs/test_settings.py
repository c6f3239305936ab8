"""docs/reference/settings.md and limits.md against `partyline.config`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from partyline.cli import app
from partyline.config import FIELDS, Settings, load
from partyline.metrics import ABOUT
from partyline.notation import written
from tests.tools import ROOT

REFERENCE = ROOT / "docs" / "reference"
SETTINGS = REFERENCE / "settings.md"
LIMITS = REFERENCE / "limits.md"

_NO_LIMITS = {"port", "compress_from"}  # numbers that bound nothing a peer can do
_CODE = re.compile(r"`([^`]*)`")


def rows(page: Path) -> Iterator[dict[str, str]]:
    """The rows of all tables of a page, by column."""
    columns: list[str] | None = None
    for line in page.read_text("utf-8").splitlines():
        if not line.startswith("|"):
            columns = None
            continue
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        if columns is None:
            columns = cells
        elif not cells[0].startswith("---"):
            assert len(cells) == len(columns), line
            yield dict(zip(columns, cells, strict=True))


def documented(page: Path) -> dict[str, dict[str, str]]:
    """The rows by setting. Fails where a setting has two."""
    found: dict[str, dict[str, str]] = {}
    for row in rows(page):
        if "setting" not in row:
            continue
        name = row["setting"].strip("`")
        assert name not in found, f"{name} has two rows in {page.name}"
        found[name] = row
    return found


def limits() -> set[str]:
    """The settings that bound something: all counts, sizes, times and rates but a few."""
    return {
        name
        for name, item in FIELDS.items()
        if item.metadata["kind"] in ("bytes", "count", "seconds", "rate") and name not in _NO_LIMITS
    }


def test_every_setting_has_one_row() -> None:
    """Every field of Settings has exactly one row in settings.md, and no row is of anything else."""
    assert documented(SETTINGS).keys() == FIELDS.keys()


def test_every_limit_has_one_row() -> None:
    """Every limit of Settings has exactly one row in limits.md, and no row is of anything else."""
    assert documented(LIMITS).keys() == limits()


@pytest.mark.parametrize("page", [SETTINGS, LIMITS], ids=lambda page: page.name)
def test_defaults(page: Path) -> None:
    """A row's default, read as the settings file would read it, is the default in the code."""
    defaults = Settings()
    for name, row in documented(page).items():
        text = row["default"]
        if text.startswith("unset"):
            assert getattr(defaults, name) is None, name
            continue
        written = tomllib.loads(f"{name} = {text.strip('`')}")
        assert getattr(load(written, environ={}).settings, name) == getattr(defaults, name), name


def test_config_writes_defaults_as_the_page_does() -> None:
    """`partyline config` shows sizes and times as settings.md writes them."""
    defaults = Settings()
    for name, row in documented(SETTINGS).items():
        if FIELDS[name].metadata["kind"] in ("bytes", "seconds") and getattr(defaults, name) is not None:
            shown = written(getattr(defaults, name), FIELDS[name].metadata["kind"])
            assert row["default"] == f'`"{shown}"`', name


def test_flags() -> None:
    """The flags in settings.md are those of `partyline serve`, each at the setting it sets."""
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {option for parameter in serve.params for option in parameter.opts if option.startswith("--")}
    named = {name: row["flag"].strip("`") for name, row in documented(SETTINGS).items() if row["flag"]}
    assert set(named.values()) == options - {"--config", "--set", "--handover", "--new-epoch"}  # for one start only
    for name, flag in named.items():
        one = re.sub(r"ies$", "y", name).removesuffix("s")  # a flag of a list takes one, and may be repeated
        assert flag.removeprefix("--").replace("-", "_") in (name, one)


def test_plain_counters() -> None:
    """Every counter of /metrics that is no limit's has one row in limits.md."""
    assert [row["metric"].strip("`") for row in rows(LIMITS) if "metric" in row] == [
        f"partyline_{name}_total" for name in ABOUT
    ]


# Counted where it is hit, or by the error or violation that names it.
_COUNTED = re.compile(r"(?:\.hit\(|\blimit=|setting: str = |body_setting=|_Broken\(1009, [^\n]*, )\"(\w+)\"")


def test_counters() -> None:
    """The counters in limits.md are those that the code counts with, and that of a setting is in its row."""
    counted = {
        match[1]
        for path in (ROOT / "src" / "partyline").rglob("*.py")
        for match in re.finditer(_COUNTED, path.read_text("utf-8"))
    }
    named = {counter for row in rows(LIMITS) for counter in _CODE.findall(row.get("counter", ""))}
    assert named == counted
    for name, row in documented(LIMITS).items():
        assert name not in counted or name in _CODE.findall(row["counter"]), f"{name} is not counted in its own row"
