"""The table of both suites in CONTRIBUTING.md: `python -m tests.durations test.xml check.xml`.

The files are what `make test ARGS=--junitxml=test.xml` and `make check ARGS=--junitxml=check.xml` wrote; without the
second one the table is of `make test` alone.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from xml.etree import ElementTree as ET

from tests.tools import ROOT

PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- durations -->\n", "<!-- /durations -->"


def folder(classname: str) -> str:
    """`tests.relay.test_line` -> `tests/relay/`."""
    parts = classname.split(".")
    return "/".join(parts[: 2 if len(parts) > 2 and not parts[1].startswith("test_") else 1]) + "/"


def table(files: list[str]) -> str:
    """One row for each folder: how many tests each suite has of it, and how long they take one after the other."""
    counts: list[Counter[str]] = []
    seconds: list[Counter[str]] = []
    took: list[float] = []
    for file in files:
        suite = ET.parse(file).getroot().find("testsuite")
        assert suite is not None, file
        counts.append(Counter())
        seconds.append(Counter())
        took.append(float(suite.get("time", 0)))
        for case in suite.iter("testcase"):
            name = folder(case.get("classname", ""))
            counts[-1][name] += 1
            seconds[-1][name] += float(case.get("time", 0))  # type: ignore[assignment]
    suites = ("`make test`", "`make check`")[: len(files)]
    lines = [
        f"| | {' | '.join(f'{suite} | seconds' for suite in suites)} |",
        f"| --- |{' --- | --- |' * len(suites)}",
    ]
    for name in sorted({name for count in counts for name in count}):
        cells = [
            cell
            for count, second in zip(counts, seconds, strict=True)
            for cell in ((f"{count[name]:,}", f"{second[name]:,.0f}") if count[name] else ("", ""))
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    sums = [f"{count.total():,} | {second.total():,.0f}" for count, second in zip(counts, seconds, strict=True)]
    clock = [f" | {taken:,.0f}" for taken in took]
    lines.append(f"| all, one after the other | {' | '.join(sums)} |")
    lines.append(f"| **by the clock**, on {os.cpu_count()} cores | {' | '.join(clock)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table."""
    made = table(sys.argv[1:3])
    print(made, end="")
    above, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(above + BEGIN + made + END + rest.partition(END)[2], "utf-8")


if __name__ == "__main__":
    main()
