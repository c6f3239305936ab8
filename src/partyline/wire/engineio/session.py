"""One Engine.IO session over whatever transports carry it: heartbeat, upgrade, close; sans-IO.

The transports tell it what happens, with the time in seconds; it answers with effects, in order:

- `str`, `bytes`: a message for the application
- `Send`: write these packets on a channel; on `Channel.POLL` they answer the hanging GET, or the one in hand
- `HangUp`: close a WebSocket
- `Refuse`: answer the request in hand with this number of `handshake.MESSAGES`; a WebSocket that wants to take over is
  accepted and closed instead
- `Over`: tell the application, once, why the session is over. The client may still have packets to fetch; once `state`
  is CLOSED, the session's id is unknown

Packets for a client on polling wait here, in order, until a GET takes them; when the upgrade is done, the rest goes out
on the WebSocket: nothing is lost or reordered. On a WebSocket nothing waits here, and a message does not change the
state: while `state` is WEBSOCKET the transport may hand messages on without asking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final, TypeAlias

from msgspec import Struct

from partyline.wire.engineio.handshake import BAD_REQUEST, UNKNOWN_SID
from partyline.wire.engineio.packets import CLOSE, MESSAGE, NOOP, PING, PONG, PROBE, PROBE_ANSWER, UPGRADE, Packet
from partyline.wire.engineio.payloads import MOST_PACKETS
from partyline.wire.engineio.states import TRANSITIONS, SessionState, Step

_NEVER: Final = float("inf")

# On Python 3.11 a look-up in an Enum takes ten times as long as one in a module, and each request makes several.
_WEBSOCKET: Final = SessionState.WEBSOCKET
_UPGRADING: Final = SessionState.UPGRADING
_PARTING: Final = SessionState.PARTING
CLOSED: Final = SessionState.CLOSED
_GET: Final = Step.GET
_POST: Final = Step.POST
_OVER: Final = frozenset((SessionState.PARTING, SessionState.CLOSING, SessionState.REFUSING, SessionState.CLOSED))


class Channel(Enum):
    POLL = "the GET"
    WEBSOCKET = "the WebSocket"
    CANDIDATE = "the WebSocket that is to take over"


POLL: Final = Channel.POLL


class Reason(StrEnum):
    """Why a session is over, in Node's words."""

    PING_TIMEOUT = "ping timeout"
    PARSE_ERROR = "parse error"
    TRANSPORT_CLOSE = "transport close"
    TRANSPORT_ERROR = "transport error"
    FORCED_CLOSE = "forced close"


class Send(Struct, frozen=True):
    channel: Channel
    packets: tuple[Packet, ...]


class HangUp(Struct, frozen=True):
    """`reason` is None for a WebSocket that is not, or no longer, the session's own."""

    channel: Channel
    reason: Reason | None = None


class Refuse(Struct, frozen=True):
    number: int


class Over(Struct, frozen=True):
    reason: Reason


Effect: TypeAlias = str | bytes | Send | HangUp | Refuse | Over


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds. A heartbeat every `ping_interval`, answered within `ping_timeout`; `upgrade_timeout` for a WebSocket to
    take over; `last_poll` for the GET that fetches the rest of a closed session. A deadline that is noticed more than
    `stall` late means a stalled loop, not a silent peer."""

    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    upgrade_timeout: float = 10.0
    last_poll: float = 10.0
    stall: float = 0.1


class Session:
    """The state of one session. `protocol` is 3 or 4; `websocket` says that it began on a WebSocket."""

    __slots__ = (
        "_attached",
        "_beat",
        "_due",
        "_fetched",
        "_held",
        "_pinged",
        "_queue",
        "_rules",
        "hanging",
        "protocol",
        "queued",
        "state",
    )

    def __init__(self, protocol: int, rules: Rules, now: float, *, websocket: bool = False) -> None:
        self.protocol = protocol
        self.state = _WEBSOCKET if websocket else SessionState.POLLING
        self.hanging = False  # a GET waits for packets
        self.queued = 0  # characters and bytes that wait for a GET
        self._rules = rules
        self._queue: deque[Packet] | None = None
        self._pinged = False  # protocol 4: our ping is sent and not answered yet
        self._attached = _NEVER  # when the candidate must have taken over
        self._held: float | None = None  # since when we have not been reading; meanwhile its deadline stands still
        self._beat = _NEVER  # while held: when it hears from us next, since the client's deadline does not stand still
        self._fetched = now  # when a GET last came
        self._due = now + rules.ping_interval  # the heartbeat's next deadline; once it is over, the end
        if protocol == 3:
            self._due += rules.ping_timeout

    # What the application does

    @property
    def writable(self) -> bool:
        """Whether a packet would go out at once; if not, volatile ones are dropped."""
        return self.state is _WEBSOCKET or (self.hanging and not self._queue)

    @property
    def waiting(self) -> bool:
        """Whether packets wait for a GET."""
        return bool(self._queue)

    def send(self, *packets: Packet) -> list[Effect]:
        """Send packets to the client. On polling they wait for `flush`, so all packets of one turn leave together."""
        if self.state is _WEBSOCKET:
            return [Send(Channel.WEBSOCKET, packets)]
        if self.state not in _OVER:
            self._enqueue(*packets)
        return []

    def discard(self, unwanted: Callable[[Packet], bool]) -> None:
        """Drop the `unwanted` packets among those that wait for a GET."""
        kept = [packet for packet in self._queue or () if not unwanted(packet)]
        self._drop()
        if kept:
            self._enqueue(*kept)

    def flush(self) -> list[Effect]:
        """Answer the hanging GET, if any, with the packets that wait."""
        if not self.hanging or not self._queue:
            return []
        self.hanging = False
        return [self._answer()]

    def close(self, now: float, *, cut: bool = False) -> list[Effect]:
        """End the session. What was sent before still goes out. With `cut` the client may not post any more."""
        return self._end(Step.CUT if cut else Step.END, Reason.FORCED_CLOSE, now)

    def hold(self, now: float) -> None:
        """We stop reading from its WebSocket, so the client's silence does not count. It must go on hearing from us, or
        it would give up."""
        if self._held is not None or self.state is not _WEBSOCKET:
            return
        rules = self._rules
        self._held = now
        if self.protocol == 3:
            # A ping from the client may lie unread from now on. Any pong answers it, and postpones the next one.
            self._beat = now + self._unread_ping
        else:
            self._beat = self._due + (rules.ping_interval - rules.ping_timeout if self._pinged else 0.0)

    def resume(self, now: float) -> None:
        """We read again."""
        if self._held is None:
            return
        if self.protocol == 3 or self._pinged:
            self._due += now - self._held
        else:
            self._due = self._beat
        self._held = None

    @property
    def _unread_ping(self) -> float:
        """Protocol 3: after how many seconds an unread ping is answered, well before it counts as lost."""
        return min(self._rules.ping_interval, self._rules.ping_timeout / 2)

    # Time

    def next_deadline(self) -> float:
        """When `on_deadline` is to be called, in seconds; infinity if nothing is due."""
        due = self._due if self._held is None else self._beat
        return due if due < self._attached else self._attached  # noqa: FURB136 - for each request; `min` is slower

    def on_deadline(self, now: float) -> list[Effect]:
        """Do what is due at `now`; nothing if it is too early. The caller repeats it while something is due."""
        if now < self.next_deadline():
            return []
        if now >= self._attached:
            return self.detach()
        if self.state in _OVER:
            return self._done()
        if self._held is not None:
            return self._beats(now, self._held)
        late = now - self._due > self._rules.stall
        if self.protocol == 4 and not self._pinged:
            self._pinged = True
            # A ping that is a little late does not move the deadline of its answer, so that the client and we agree.
            self._due = (now if late else self._due) + self._rules.ping_timeout
            return [*self.send(PING), *self.flush()]
        if late:
            # Packets of the client may lie unread in a socket: they are read first.
            self._due = now + self._rules.stall
            return []
        return self._end(Step.SILENCE, Reason.PING_TIMEOUT, now)

    def _beats(self, now: float, held: float) -> list[Effect]:
        """The heartbeat of a client that we do not read from."""
        rules = self._rules
        if self.protocol == 3:
            self._beat = now + self._unread_ping
            return self.send(PONG)
        self._beat = now + rules.ping_interval
        if not self._pinged:
            self._pinged = True
            self._due = held + rules.ping_timeout  # counts from when we read again
        return self.send(PING)

    # Polling

    def get(self, now: float) -> list[Effect]:
        """A GET has come. If no effect answers it, it hangs (`hanging`)."""
        self._fetched = now
        effects = self._expire(now)
        if self.hanging:
            # The first GET is told that the session is over, the second that it was a bad request.
            return [*effects, *self._end(Step.SECOND_GET, Reason.TRANSPORT_ERROR, now), Refuse(BAD_REQUEST)]
        if not self._step(_GET):
            return [*effects, self._refusal()]
        if self.state is _PARTING or (self.state is _UPGRADING and not self._queue):
            # The client waits for this GET's answer before it switches to the WebSocket.
            return [*effects, Send(POLL, (NOOP,))]
        if not self._queue:
            self.hanging = True
            return effects
        return [*effects, self._answer()]

    def abort(self, now: float) -> list[Effect]:
        """The hanging GET was aborted."""
        if not self.hanging:
            return []
        self.hanging = False
        return self._end(Step.ABORT, Reason.TRANSPORT_ERROR, now)

    def post(self, packets: list[Packet] | None, now: float) -> list[Effect]:
        """A POST has come with these packets; None if its body was malformed. Refused, or answered `ok`.

        Once we have closed the session, a POST is answered and ignored: after a refusal the client would not fetch the
        rest.
        """
        effects = self._expire(now)
        if not self._step(_POST):
            return [*effects, self._refusal()]
        if self.state in _OVER:
            return effects
        if packets is None:
            return [*effects, *self._end(Step.BREAK, Reason.PARSE_ERROR, now), Refuse(BAD_REQUEST)]
        for packet in packets:
            broken = self._packet(packet, now, effects)
            if broken:
                effects.append(Refuse(BAD_REQUEST))
            if broken or self.state in _OVER:
                break
        return [*effects, *self.flush()]

    # WebSocket

    def receive(self, packet: Packet, now: float) -> list[Effect]:
        """A packet has come on the session's WebSocket."""
        effects: list[Effect] = []
        if self.state is _WEBSOCKET:
            self._packet(packet, now, effects)
        return effects

    def broken(self, now: float) -> list[Effect]:
        """Something that is not a packet has come on the session's WebSocket."""
        if self.state is not _WEBSOCKET:
            return []
        return self._end(Step.BREAK, Reason.PARSE_ERROR, now)

    def lose(self, now: float, reason: Reason = Reason.TRANSPORT_CLOSE) -> list[Effect]:
        """The session's WebSocket is gone."""
        return self._end(Step.LOSE, reason, now)

    # The upgrade

    def attach(self, now: float) -> list[Effect]:
        """A WebSocket has come to take over: after these effects it is the candidate, unless they refuse it.

        The session goes on either way.
        """
        effects = self._expire(now)
        if not self._step(Step.ATTACH):
            return [*effects, self._refusal()]
        self._attached = now + self._rules.upgrade_timeout
        return effects

    def probe(self, packet: Packet | None, now: float) -> list[Effect]:
        """A packet has come on the candidate; None for something that is not a packet. With `5`, a session that is
        parting sends the rest on the candidate and closes it."""
        if packet == PROBE and self._step(Step.PROBE):
            released: list[Effect] = []
            if self.hanging:
                # The client switches once its GET is answered.
                if not self._queue:
                    self._enqueue(NOOP)
                released = self.flush()
            return [Send(Channel.CANDIDATE, (PROBE_ANSWER,)), *released]
        if packet == UPGRADE and self.state is _PARTING:
            self._step(Step.UPGRADE)
            self._attached = self._due = _NEVER
            rest = tuple(self._queue or ())[:-1]  # the last one is the close packet, for polling
            self._drop()
            return [*([Send(Channel.CANDIDATE, rest)] if rest else []), HangUp(Channel.CANDIDATE)]
        if packet == UPGRADE and self._step(Step.UPGRADE):
            self._attached = _NEVER
            effects: list[Effect] = []
            if self.hanging:
                self.hanging = False
                effects.append(Send(POLL, (NOOP,)))
            if self._queue:
                effects.append(Send(Channel.WEBSOCKET, tuple(self._queue)))
            self._drop()
            return effects
        return self.detach()

    def detach(self) -> list[Effect]:
        """The candidate is lost, or has to go. The session goes on with polling."""
        if not self._step(Step.DETACH):
            return []
        self._attached = _NEVER
        return [HangUp(Channel.CANDIDATE)]

    # The rest

    def _step(self, step: Step) -> bool:
        """Take a step; False if the table has none."""
        after = TRANSITIONS.get((self.state, step))
        if after is None:
            return False
        self.state = after
        return True

    def _packet(self, packet: Packet, now: float, effects: list[Effect]) -> bool:
        """Handle one packet from the client; True if it is not allowed here."""
        if type(packet) is not str:
            effects.append(packet)
            return False
        kind = packet[0]
        if kind == MESSAGE:
            effects.append(packet[1:])
        elif kind == (PONG if self.protocol == 4 else PING):
            self._heard(now)
            if self.protocol == 3 and not (self._queue and self._queue[-1] == PONG):  # one answer for several pings
                effects += self.send(PONG)
        elif kind == CLOSE:
            effects += self._end(Step.LEAVE, Reason.TRANSPORT_CLOSE, now)
        elif kind != NOOP:
            effects += self._end(Step.BREAK, Reason.PARSE_ERROR, now)
            return True
        return False

    def _heard(self, now: float) -> None:
        rules = self._rules
        fetches = self.state is _WEBSOCKET or self.hanging
        if not fetches and now - self._fetched > rules.ping_interval + rules.ping_timeout:
            return  # it is alive, but does not fetch what we send
        if self.protocol == 3:
            self._due = now + rules.ping_interval + rules.ping_timeout
        elif self._pinged:
            self._pinged = False
            self._due = now + rules.ping_interval
        if self._held is not None:
            self._held = now

    def _expire(self, now: float) -> list[Effect]:
        """Handle deadlines that have passed: a request must not depend on how coarse the timer is."""
        effects: list[Effect] = []
        while now >= self.next_deadline():
            effects += self.on_deadline(now)
        return effects

    def _end(self, step: Step, reason: Reason, now: float) -> list[Effect]:
        """Take a step that ends the session for the application."""
        before = self.state
        if not self._step(step):
            return []
        effects: list[Effect] = []
        if before is _WEBSOCKET and step is not Step.LOSE:
            effects.append(HangUp(Channel.WEBSOCKET, reason))
        if self._attached != _NEVER and self.state is not _PARTING:
            self._attached = _NEVER
            effects.append(HangUp(Channel.CANDIDATE))
        if self.state is not CLOSED:
            # The client fetches the rest; the last packet tells it that the session is over.
            if step is Step.LEAVE:
                self._drop()
            self._enqueue(NOOP if step is Step.LEAVE else CLOSE)
            self._due = now + self._rules.last_poll
            return [*effects, *self.flush(), Over(reason)]
        if self.hanging:
            self.hanging = False
            effects.append(Send(POLL, (CLOSE,)))
        self._drop()
        self._due = _NEVER
        self._held = None
        return [*effects, Over(reason)]

    def _done(self) -> list[Effect]:
        self._step(Step.DONE)
        self._drop()
        self._due = _NEVER
        if self._attached == _NEVER:
            return []
        self._attached = _NEVER
        return [HangUp(Channel.CANDIDATE)]

    def _refusal(self) -> Refuse:
        return Refuse(UNKNOWN_SID if self.state is CLOSED else BAD_REQUEST)

    def _enqueue(self, *packets: Packet) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.extend(packets)
        self.queued += sum(map(len, packets))

    def _drop(self) -> None:
        self._queue = None
        self.queued = 0

    def _answer(self) -> Send:
        """Take the packets for one GET. Taking the last one of a session that is over closes it for good."""
        queue = self._queue
        assert queue
        count = min(len(queue), MOST_PACKETS)
        if 1 < count == len(queue) and self.state in _OVER:
            # The close packet gets a body of its own, as Node's server does it: socket.io-client 4 handles messages a
            # turn later than a close packet in the same body, and then disconnects each socket twice.
            count -= 1
        packets = tuple([queue.popleft() for _ in range(count)])
        self.queued -= sum(map(len, packets))
        if not queue:
            self._queue = None
            if self.state in _OVER:
                self._done()
        return Send(POLL, packets)
