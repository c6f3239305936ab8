"""A process that restores a backup and ends, as by kill -9, before its N-th change of a name or a file.

python -m tests.stores.sqlite.restorer <backup> <database> <N>; exit code 9 if it reached N, 0 if it was done before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from partyline.stores.sqlite import copying


def main(backup: str, path: str, last: int) -> None:
    steps = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*values: Any, **named: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == last:
                os._exit(9)
            return call(*values, **named)

        return step

    for name in ("rename", "unlink", "fsync", "fdatasync"):
        setattr(os, name, counted(getattr(os, name)))
    copying.restore(backup, path, replace=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
