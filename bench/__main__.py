"""`python -m bench`: run the scenarios, print the table, save it.

Exit status: 0 when every message arrived, 1 when one was lost or a server failed, 2 when nothing
can be measured here. A missed bound is shown in the table; it does not change the exit status.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from bench.build import BENCH, BUILD, ROOT, Unavailable, compile_programs
from bench.catalog import Catalog
from bench.connecting import connecting
from bench.durable import durable
from bench.figures import three_digits
from bench.growth import growth
from bench.machine import choose_cores, facts, raise_descriptor_limit
from bench.memory import idle
from bench.rounds import Bench
from bench.scenarios import broadcast, echo, latency, publish
from bench.socketio import socketio
from bench.spreading import cluster
from bench.table import Row, rich_tables, save, save_json

SCENARIOS: dict[str, Callable[[Bench], list[Row]]] = {
    "echo": echo,
    "broadcast": broadcast,
    "latency": latency,
    "publish": publish,
    "durable": durable,
    "cluster": cluster,
    "socketio": socketio,
    "connecting": connecting,
    "idle": idle,
    "growth": growth,
}
# Those that compare two checkouts.
COMPARED = ("echo", "broadcast", "publish", "durable", "socketio", "connecting", "idle")
PAIRS = 5
QUICK_PAIRS = 2
MIN_DESCRIPTORS = 11_000
PLAIN_WIDTH = 132  # into a file or a pipe


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Server CPU per operation, beside peers. See bench/README.md."
    )
    parser.add_argument(
        "--quick", action="store_true", help="a fifth of the operations and two rounds: a look, not a figure"
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="another checkout of Partyline, in place of the peers, run by its own .venv",
    )
    parser.add_argument(
        "--only", metavar="NAMES", help=f"of the scenarios {','.join(SCENARIOS)} (default: all that apply)"
    )
    parser.add_argument("--pairs", type=int, metavar="N", help=f"rounds (default: {PAIRS}, quick: {QUICK_PAIRS})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows with all their values there as well")
    chosen = parser.parse_args()
    known = COMPARED if chosen.against else tuple(SCENARIOS)
    chosen.only = (
        list(known) if chosen.only is None else [name.strip() for name in chosen.only.split(",") if name.strip()]
    )
    unknown = [name for name in chosen.only if name not in known]
    if unknown or not chosen.only:
        parser.error(f"--only knows {', '.join(known)}, not {', '.join(unknown) or 'nothing'}")
    if chosen.against:
        chosen.against = chosen.against.resolve()
        if not (chosen.against / "src" / "partyline").is_dir():
            parser.error(f"--against: {chosen.against} is no checkout of Partyline")
    chosen.pairs = chosen.pairs or (QUICK_PAIRS if chosen.quick and not chosen.against else PAIRS)
    if chosen.pairs < 1:
        parser.error("--pairs must be at least 1")
    return chosen


def main() -> int:
    """Run and report; returns the exit status."""
    options = arguments()
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    descriptors = raise_descriptor_limit()
    if descriptors < MIN_DESCRIPTORS:
        console.print(
            f"[bold red]The descriptor limit is {descriptors}; 10,000 connections need {MIN_DESCRIPTORS}: ulimit -Hn"
        )
        return 2
    try:
        compiler = compile_programs()
    except Unavailable as reason:
        console.print("[bold red]Nothing can be measured: the floor and the load generator are C programs.")
        console.print(str(reason), markup=False)
        return 2
    catalog = Catalog(options.against)
    for name, why in catalog.missing.items():
        console.print(f"[bold yellow]SKIPPED[/] {name}: {escape(why)}", highlight=False)

    cores = choose_cores()
    if cores is None:
        console.print("[bold yellow]One core only: servers and generator share it, and latencies mean little.")
    else:
        os.sched_setaffinity(0, {cores.load})
    machine = facts(cores) | {"C compiler": compiler} | catalog.versions
    made: list[Row] = []
    columns = (TextColumn("{task.description:60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Twice a second: the bars are drawn on the generator's core.
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        bench = Bench(catalog, cores, options.pairs, options.quick, console, progress, bool(options.against))
        for name in options.only:
            made += SCENARIOS[name](bench)

    for fact, value in machine.items():
        console.print(f"{fact}: {value}", highlight=False)
    for table in rich_tables(made):
        console.print(table)
        console.print()
    if options.against:
        console.print(comparison(made, options.against.name))
    complete = not options.quick and set(options.only) == set(SCENARIOS) and options.pairs >= PAIRS
    folder = BENCH / "results" if complete else BUILD / "results"
    save(folder, machine, made, preface(options))
    if options.json:
        save_json(options.json, machine, made)
    console.print(
        f"Saved in {folder.relative_to(ROOT)}" + ("" if complete else ": not a complete run, so not in bench/results")
    )
    return verdict(bench, console)


def preface(options: argparse.Namespace) -> str:
    """The sentence above the saved table."""
    kind = "A quick look, not for quoting" if options.quick else "Server CPU per operation"
    return f"{kind}, rounds: {options.pairs}, scenarios: {', '.join(options.only)}. How to read it: bench/README.md."


def comparison(made: list[Row], there: str) -> RichTable:
    """This checkout beside the other one, the worst ratio first."""
    table = RichTable("scenario", "here", there, "here / there", "min - max", box=box.SIMPLE)
    mine = {(row.scenario, row.server): row.figure for row in made}
    pairs = [(row.ratio, row) for row in made if row.ratio is not None and row.server.endswith(f" of {there}")]
    for ratio, row in sorted(pairs, key=lambda pair: -pair[0].median):
        assert row.figure is not None
        here = mine.get((row.scenario, row.server.removesuffix(f" of {there}")))
        medians = (three_digits(figure.median) if figure else "" for figure in (here, row.figure))
        table.add_row(
            f"{row.scenario} ({row.unit})", *medians, f"{ratio.median:.3f}", f"{ratio.low:.3f} - {ratio.high:.3f}"
        )
    return table


def verdict(bench: Bench, console: Console) -> int:
    """Say last what matters most, and return the exit status."""
    for what in bench.lost:
        console.print(f"[bold red]MESSAGE LOST[/] {escape(what)}", highlight=False)
    for what in bench.failures:
        console.print(f"[bold red]FAILED[/] {escape(what)}", highlight=False)
    return 1 if bench.lost or bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
