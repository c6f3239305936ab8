"""Reads lines from a file that may block, for a loop that must not."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from typing import Final

from partyline.errors import InvalidValue

_PIECE: Final = 65_536
MOST: Final = 16_000_000  # bytes of a message, as in the client


class Lines:
    """The lines from a file descriptor, read by a separate thread, at most two pieces of 64 KiB ahead.

    The thread is a daemon and takes no lock of `sys.stdin`: a process that ends does not wait for a line that may never
    come, as it would for a thread of the loop's executor.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[bytes | OSError] = asyncio.Queue()
        self._room = threading.Semaphore(2)
        self._lines: deque[bytes] = deque()
        self._begun = b""
        self._ended = False
        threading.Thread(target=self._read, name="lines", daemon=True).start()

    async def next(self) -> bytes | None:
        """The next line without its end (LF or CR LF), None after the last one. Raises InvalidValue.

        Cancelling it loses nothing.
        """
        while not self._lines:
            if self._ended:
                return None
            piece = await self._pieces.get()
            if isinstance(piece, OSError):
                raise InvalidValue(f"standard input cannot be read: {piece.strerror}") from None
            self._room.release()
            if len(self._begun) > MOST:
                raise InvalidValue(f"standard input has a line of more than {MOST} bytes")
            self._ended = not piece
            *whole, self._begun = (self._begun + piece).split(b"\n")
            self._lines.extend(whole)
            if self._ended and self._begun:
                self._lines.append(self._begun)
        return self._lines.popleft().removesuffix(b"\r")

    def _read(self) -> None:
        piece: bytes | OSError = b"-"
        while piece and isinstance(piece, bytes):
            self._room.acquire()
            try:
                piece = os.read(self._descriptor, _PIECE)
            except OSError as error:
                piece = error
            try:
                self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
            except RuntimeError:
                return  # the loop is closed: nobody needs the lines
