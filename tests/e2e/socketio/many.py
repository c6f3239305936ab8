"""The kitchen sink for `partyline serve`, with several workers; each mode is made when it is asked for."""

from __future__ import annotations

from examples.conformance import MODES, Echo, engine_io, socket_io

import partyline


def __getattr__(mode: str) -> partyline.Application:
    if mode not in MODES:
        raise AttributeError(mode)
    settings = partyline.Settings(outbox_bytes=64 * 1024 * 1024, drain_time=1.0)
    made = partyline.Application(settings, extras=[socket_io(mode), engine_io(mode), Echo()])
    globals()[mode] = made  # one for each process
    return made
