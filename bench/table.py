"""The table: one row per scenario and server, for the terminal, for Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from bench.figures import Figure, three_digits

BOTTLENECK_SHARE = 0.9
DISTURBED_SHARE = 0.05

HEADINGS = (
    "scenario",
    "server",
    "median",
    "min - max",
    "unit",
    "per second",
    "per wake-up",
    "busy: generator / server",
    "Partyline / this",
    "bound",
    "verdict",
)
TERMINAL_HEADINGS = ("server", "median", "min - max", "per s", "/wake-up", "gen / server", "ratio", "bound", "verdict")


@dataclass(slots=True)
class Row:
    """One line of the table.

    Without a figure, `status` says SKIPPED, FAILED or MESSAGE LOST and `note` says why.
    """

    scenario: str
    server: str
    unit: str
    figure: Figure | None = None
    per_second: float | None = None
    per_wakeup: float | None = None
    load_share: float | None = None
    server_share: float | None = None
    waited_share: float | None = None
    ratio: Figure | None = None
    bound: float | None = None
    note: str = ""
    status: str = ""

    @property
    def starved(self) -> bool:
        """The generator was the bottleneck: it had no time left, and the server had."""
        if self.load_share is None or self.server_share is None:
            return False
        return self.load_share > BOTTLENECK_SHARE > self.server_share

    @property
    def disturbed(self) -> bool:
        """Something else ran on the server's core: cold caches, and a figure that is too high."""
        return self.waited_share is not None and self.waited_share > DISTURBED_SHARE

    @property
    def bounded(self) -> Figure | None:
        """The bounded value: the ratio if there is one, otherwise the figure itself."""
        return self.ratio or self.figure

    @property
    def verdict(self) -> str:
        """`met`, `MISSED`, the status of a row without figures, or nothing."""
        if self.status or self.bound is None or self.bounded is None:
            return self.status
        return "met" if self.bounded.meets(self.bound) else "MISSED"

    def cells(self) -> tuple[str, ...]:
        """The row as text, one string per heading."""
        if self.figure is None:
            return (self.scenario, self.server, *[""] * (len(HEADINGS) - 3), self.verdict)
        shares = ""
        if self.load_share is not None and self.server_share is not None:
            mark = " GENERATOR-BOUND" * self.starved + " DISTURBED" * self.disturbed
            shares = f"{self.load_share:.2f} / {self.server_share:.2f}{mark}"
        ratio = ""
        if self.ratio is not None:
            ratio = f"{self.ratio.median:.2f} ({self.ratio.low:.2f} - {self.ratio.high:.2f})"
        return (
            self.scenario,
            self.server,
            three_digits(self.figure.median),
            f"{three_digits(self.figure.low)} - {three_digits(self.figure.high)}",
            self.unit,
            three_digits(self.per_second) if self.per_second is not None else "",
            _wakeups(self.per_wakeup),
            shares,
            ratio,
            f"<= {self.bound:g}" if self.bound is not None else "",
            self.verdict,
        )

    def as_json(self) -> dict[str, Any]:
        """The row with all its values, round by round."""
        return {
            "scenario": self.scenario,
            "server": self.server,
            "unit": self.unit,
            "figure": _figure_json(self.figure),
            "per_second": self.per_second,
            "operations_per_wakeup": self.per_wakeup,
            "generator_share": self.load_share,
            "server_share": self.server_share,
            "generator_bound": self.starved,
            "server_waited_share": self.waited_share,
            "disturbed": self.disturbed,
            "partyline_over_this": _figure_json(self.ratio),
            "bound": self.bound,
            "verdict": self.verdict or None,
            "note": self.note or None,
        }


def _wakeups(per_wakeup: float | None) -> str:
    if per_wakeup is None:
        return ""
    # A server that is never idle hardly sleeps: the number then only says that.
    return "> 1,000" if per_wakeup > 1_000 else three_digits(per_wakeup)


def _figure_json(figure: Figure | None) -> dict[str, Any] | None:
    if figure is None:
        return None
    return {
        "median": figure.median,
        "min": figure.low,
        "max": figure.high,
        "better_quartile": figure.quartile,
        "rounds": list(figure.values),
    }


def rich_tables(rows: Sequence[Row]) -> list[Table]:
    """For the terminal: one table for each scenario, with the scenario and its unit as title."""
    tables: list[Table] = []
    for scenario in dict.fromkeys(row.scenario for row in rows):
        mine = [row for row in rows if row.scenario == scenario]
        unit = next((row.unit for row in mine if row.unit), "")
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title_justify="left", title_style="bold")
        table.title = escape(f"{scenario}: {unit}" if unit else scenario)
        for heading in TERMINAL_HEADINGS:
            table.add_column(heading, justify="left" if heading in ("server", "verdict") else "right", no_wrap=True)
        for row in mine:
            style = {"met": "green", "": "", "SKIPPED": "yellow"}.get(row.verdict, "bold red")
            cells = row.cells()
            table.add_row(*map(escape, (cells[1], *cells[2:4], *cells[5:])), style=style)
        table.caption = escape("\n".join(f"{row.server}: {row.note}" for row in mine if row.note)) or None
        table.caption_justify = "left"
        tables.append(table)
    return tables


def markdown(facts: Mapping[str, str], rows: Sequence[Row], preface: str) -> str:
    """The saved table: the machine first, then every row, then the notes."""
    lines = ["# Benchmark", "", preface, ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "| " + " | ".join(HEADINGS) + " |", "|" + " --- |" * len(HEADINGS)]
    for row in rows:
        cells = list(row.cells())
        if row.verdict not in ("", "met"):
            cells[-1] = f"**{row.verdict}**"
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    notes = [f"- {row.scenario}, {row.server}: {' '.join(row.note.split())}" for row in rows if row.note]
    return "\n".join(lines + [""] * bool(notes) + notes) + "\n"


def save(folder: Path, facts: Mapping[str, str], rows: Sequence[Row], preface: str) -> None:
    """Write table.md and table.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(markdown(facts, rows, preface))
    save_json(folder / "table.json", facts, rows)


def save_json(path: Path, facts: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Write the rows with all their values."""
    document = {"facts": dict(facts), "rows": [row.as_json() for row in rows]}
    path.write_text(json.dumps(document, indent=2) + "\n")
