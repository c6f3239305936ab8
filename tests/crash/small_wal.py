"""`partyline` with a write-ahead log that is checkpointed every few pages, so that a short record has everything.

python -m tests.crash.small_wal serve ...
"""

from __future__ import annotations

from partyline.stores.sqlite import opening

PAGES = 32

if __name__ == "__main__":
    opening.WAL_PAGES = PAGES  # type: ignore[misc]

    from partyline.cli import main

    main()
