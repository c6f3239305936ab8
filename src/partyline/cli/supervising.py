"""The parent of a server with several processes: it starts them, replaces those that die, and stops them together.

It has no loop, no thread but that of the logs, and none of the children's state. A child ends when its pipe says so, or
closes because the parent has died: only the parent reacts to signals that a terminal or a service manager sends to all
processes.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import msgspec

from partyline import log
from partyline.errors import ConfigError

_log = log.get("server")

STOP: Final = b"s"
HURRY: Final = b"h"

_QUICK: Final = 5.0  # seconds: a child that dies younger than that is replaced after a pause
_LONGEST_PAUSE: Final = 5.0
_STOPPING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_MOST_SAID: Final = 64 * 1024  # bytes


class Said(msgspec.Struct, frozen=True):
    """A child's single report: that it is ready, or why it cannot start."""

    facts: dict[str, str] = {}
    error: str = ""
    field: str = ""


Main = Callable[[int, Callable[[Said], None]], int]
"""Runs in a child, with the descriptor on which it is told to stop; returns its exit code."""


class _Child:
    def __init__(self, name: str, main: Main) -> None:
        self.name = name
        self.main = main
        self.pid = 0
        self.control = -1
        self.said = -1
        self.text = b""
        self.ready: Said | None = None
        self.began = 0.0
        self.deaths = 0
        self.due: float | None = None  # when to start it again

    def close(self) -> None:
        for number in (self.control, self.said):
            if number >= 0:
                os.close(number)
        self.control = self.said = -1


class Supervisor:
    """Runs children until it is told to stop; then it calls `on_stop` at once."""

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._on_stop = on_stop
        self._children: list[_Child] = []
        self._stopping = False
        self._wake, self._signal = os.pipe()
        for number in (self._wake, self._signal):
            os.set_blocking(number, False)
        signal.set_wakeup_fd(self._signal)
        for kind in (*_STOPPING, signal.SIGCHLD):
            if kind != signal.SIGHUP or signal.getsignal(kind) is not signal.SIG_IGN:
                signal.signal(kind, lambda number, frame: None)

    def start(self, children: Sequence[tuple[str, Main]]) -> list[dict[str, str]]:
        """Start these, and return their reports when all are ready. Raises ConfigError if one cannot start."""
        started = [_Child(name, main) for name, main in children]
        self._children += started
        for child in started:
            self._fork(child)
        while not all(child.ready for child in started):
            self._turn()
            for child in started:
                if child.ready is not None and child.ready.error:
                    raise ConfigError(child.ready.error, field=child.ready.field or None)
            if self._stopping:
                raise ConfigError("stopped before it listened")
        return [child.ready.facts for child in started if child.ready is not None]

    def run(self) -> None:
        """Replace children that die, and return when told to stop."""
        while not self._stopping:
            self._turn()

    def stop(self, name: str, within: float) -> None:
        """Stop the children whose names begin with `name`, and return when they have ended. Those that are still there
        after `within` seconds are killed."""
        self._stopping = True
        children = [child for child in self._children if child.name.startswith(name)]
        self._tell(children, STOP)
        deadline = time.monotonic() + within
        while any(child.pid for child in children):
            self._turn(deadline)
            if time.monotonic() >= deadline:
                deadline = math.inf
                for child in children:
                    if child.pid:
                        _log.error(f"a process does not end and is killed: {child.name}", pid=child.pid)
                        os.kill(child.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill the children that are left, after something went wrong."""
        self._stopping = True
        for child in self._children:
            child.close()
            if child.pid:
                os.kill(child.pid, signal.SIGKILL)
        while any(child.pid for child in self._children):
            self._turn()

    def _tell(self, children: Sequence[_Child], what: bytes) -> None:
        for child in children:
            if child.pid:
                with contextlib.suppress(OSError):
                    os.write(child.control, what)

    # One turn

    def _turn(self, deadline: float = math.inf) -> None:
        now = time.monotonic()
        due = min([deadline, *(child.due for child in self._children if child.due is not None)])
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        for child in self._children:
            if child.said >= 0 and child.ready is None:
                poll.register(child.said, select.POLLIN)
        ready = {number for number, _ in poll.poll(None if due == math.inf else max(0.0, due - now) * 1000)}
        if self._wake in ready:
            self._signals(os.read(self._wake, 1024))
        for child in self._children:
            if child.said in ready:
                self._listen(child)
        now = time.monotonic()
        for child in self._children:
            if child.due is not None and child.due <= now and not self._stopping:
                self._fork(child)

    def _signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                self._reap()
            elif number in _STOPPING:
                if self._stopping:
                    if number != signal.SIGHUP:  # a terminal sends it more than once
                        self._tell(self._children, HURRY)
                else:
                    _log.info(f"{signal.Signals(number).name}: the server stops")
                    self._stopping = True
                    self._on_stop()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for child in self._children:
                if child.pid == pid:
                    self._died(child, os.waitstatus_to_exitcode(status))

    def _died(self, child: _Child, code: int) -> None:
        if child.ready is None and child.said >= 0:
            self._listen(child)
        pid, child.pid = child.pid, 0
        child.close()
        if child.ready is None:  # it died before it reported
            child.ready = Said(error=f"the {child.name} could not start: its log says why")
        if self._stopping or child.ready.error:
            return
        quick = time.monotonic() - child.began < _QUICK
        child.deaths = child.deaths + 1 if quick else 0
        pause = min(_LONGEST_PAUSE, 0.1 * 2**child.deaths) if child.deaths > 1 else 0.0
        child.due = time.monotonic() + pause
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        _log.error(f"a process has died and is replaced: {child.name}", pid=pid, how=how)

    def _listen(self, child: _Child) -> None:
        piece = os.read(child.said, _MOST_SAID)
        child.text += piece
        if b"\n" in child.text:
            child.ready = msgspec.json.decode(child.text.partition(b"\n")[0], type=Said)

    def _fork(self, child: _Child) -> None:
        told, child.control = os.pipe()
        child.said, say = os.pipe()
        child.due = None
        child.text = b""
        child.began = time.monotonic()
        again = child.ready
        child.pid = os.fork()
        if not child.pid:
            self._be(child, told, say, again=again is not None)
        os.close(told)
        os.close(say)
        if again is not None:
            os.close(child.said)  # only its first start is reported
            child.said = -1

    def _be(self, child: _Child, told: int, say: int, *, again: bool) -> NoReturn:
        """Run as the child."""
        code = 1
        try:
            log.name_process(child.name)
            with contextlib.suppress(OSError), open("/proc/self/comm", "w") as name:
                name.write(child.name.replace(" ", "-"))  # for ps and top
            signal.set_wakeup_fd(-1)
            for kind in _STOPPING:
                signal.signal(kind, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in self._children:
                other.close()
            os.close(self._wake)
            os.close(self._signal)
            code = child.main(told, lambda said: _say(say, said))
        except ConfigError as error:
            if again:  # nobody waits for its report any more
                _log.error("it cannot start again", error=error.message)
            _say(say, Said(error=error.message, field=error.field or ""))
            code = 2
        except BaseException:
            _log.exception(f"the {child.name} failed")
        finally:
            log.flush()
            os._exit(code)


def _say(number: int, said: Said) -> None:
    with contextlib.suppress(OSError):
        os.write(number, msgspec.json.encode(said) + b"\n")
        os.close(number)
