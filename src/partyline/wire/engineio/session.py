"""One Engine.IO session over whatever transports carry it: heartbeat, upgrade, close; sans-IO.

The transports tell it what happens, with the time in seconds; it answers with effects, in order:

- `str`, `bytes`: a message for the application
- `Send`: write these packets on a channel; on `Channel.POLL` they answer the GET that hangs, or the one in hand
- `HangUp`: close a WebSocket
- `Refuse`: answer the request in hand with this number of `handshake.MESSAGES`; a WebSocket that comes to take over is
  accepted and closed instead
- `Over`: tell the application, once, why the session is over. Its client may still have to fetch what was left for it;
  once `state` is CLOSED, its id is unknown

Packets for a client on polling wait here, in order, until a GET takes them, and go out on the WebSocket when the
upgrade is done: nothing is lost or changes places. On a WebSocket nothing waits here, and a message changes nothing:
while `state` is WEBSOCKET the transport may hand it on without asking.
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
_OVER: Final = frozenset((SessionState.PARTING, SessionState.CLOSING, SessionState.REFUSING, SessionState.CLOSED))


class Channel(Enum):
    POLL = "the GET"
    WEBSOCKET = "the WebSocket"
    CANDIDATE = "the WebSocket that is to take over"


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
    """`reason` is None for a WebSocket that is not the session's own, or not any more."""

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
    take over; `last_poll` for the GET that fetches the rest of a closed session; a deadline that is noticed more than
    `stall` late found a stalled loop, not a silent peer."""

    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    upgrade_timeout: float = 10.0
    last_poll: float = 10.0
    stall: float = 0.1


class Session:
    """The state of one session. `protocol` is 3 or 4; `websocket` says that it began on one."""

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
        self.state = SessionState.WEBSOCKET if websocket else SessionState.POLLING
        self.hanging = False  # a GET waits for packets
        self.queued = 0  # characters and bytes that wait for a GET
        self._rules = rules
        self._queue: deque[Packet] | None = None
        self._pinged = False  # protocol 4: our ping is out, its answer is not in
        self._attached = _NEVER  # when the candidate must have taken over
        self._held: float | None = None  # since when we do not read, so that its deadline stands still
        self._beat = _NEVER  # meanwhile: when it hears from us next, since its own deadline does not
        self._fetched = now  # when a GET last came
        self._due = now + rules.ping_interval  # the heartbeat's next deadline; once it is over, the end
        if protocol == 3:
            self._due += rules.ping_timeout

    # What the application does

    @property
    def writable(self) -> bool:
        """Whether a packet would go out at once: volatile ones are dropped where it would not."""
        return self.state is SessionState.WEBSOCKET or (self.hanging and not self._queue)

    @property
    def waiting(self) -> bool:
        """Whether packets wait for a GET."""
        return bool(self._queue)

    def send(self, *packets: Packet) -> list[Effect]:
        """Packets for the client. Those for polling wait for `flush`, so that what one turn sends leaves together."""
        if self.state is SessionState.WEBSOCKET:
            return [Send(Channel.WEBSOCKET, packets)]
        if self.state not in _OVER:
            self._enqueue(*packets)
        return []

    def discard(self, unwanted: Callable[[Packet], bool]) -> None:
        """Drop the packets that wait for a GET and are `unwanted`."""
        kept = [packet for packet in self._queue or () if not unwanted(packet)]
        self._drop()
        if kept:
            self._enqueue(*kept)

    def flush(self) -> list[Effect]:
        """Give what waits to the GET that hangs, if there is one."""
        if not self.hanging or not self._queue:
            return []
        self.hanging = False
        return [self._answer()]

    def close(self, now: float, *, cut: bool = False) -> list[Effect]:
        """End the session. What was sent before still goes out; `cut` off, its client may post no more."""
        return self._end(Step.CUT if cut else Step.END, Reason.FORCED_CLOSE, now)

    def hold(self, now: float) -> None:
        """We stop reading from its WebSocket: what the client has to say has time. It goes on hearing from us, or it
        would give up."""
        if self._held is not None or self.state is not SessionState.WEBSOCKET:
            return
        rules = self._rules
        self._held = now
        if self.protocol == 3:
            # A ping of it may lie unread from now on. Any pong answers it, and keeps it from the next one.
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
        """Protocol 3: in how many seconds a ping that lies unread is answered, well before it counts as lost."""
        return min(self._rules.ping_interval, self._rules.ping_timeout / 2)

    # Time

    def next_deadline(self) -> float:
        """When `on_deadline` is to be called: seconds, infinity where nothing is waited for."""
        return min(self._attached, self._due if self._held is None else self._beat)

    def on_deadline(self, now: float) -> list[Effect]:
        """Do what is due at `now`; nothing if it is too early. Called again while something is due."""
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
            # The answer is due in time even where our ping was a little late, so that the client and we agree.
            self._due = (now if late else self._due) + self._rules.ping_timeout
            return [*self.send(PING), *self.flush()]
        if late:
            # What the client said meanwhile may lie unread in a socket: that is read first.
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
        """A GET has come. Without an effect for it, it hangs (`hanging`)."""
        self._fetched = now
        effects = self._expire(now)
        if self.hanging:
            # The first one is told that it is over, the second one that it was wrong.
            return [*effects, *self._end(Step.SECOND_GET, Reason.TRANSPORT_ERROR, now), Refuse(BAD_REQUEST)]
        if not self._step(Step.GET):
            return [*effects, self._refusal()]
        if self.state is SessionState.PARTING or (self.state is SessionState.UPGRADING and not self._queue):
            # The client waits for this GET before it goes over to the WebSocket.
            return [*effects, Send(Channel.POLL, (NOOP,))]
        if not self._queue:
            self.hanging = True
            return effects
        return [*effects, self._answer()]

    def abort(self, now: float) -> list[Effect]:
        """The GET that hangs has been aborted."""
        if not self.hanging:
            return []
        self.hanging = False
        return self._end(Step.ABORT, Reason.TRANSPORT_ERROR, now)

    def post(self, packets: list[Packet] | None, now: float) -> list[Effect]:
        """A POST has come with these packets; None where its body was malformed. Refused, or answered `ok`.

        Once we have closed the session it is answered and ignored: a client that was refused would not fetch the rest.
        """
        effects = self._expire(now)
        if not self._step(Step.POST):
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
        if self.state is SessionState.WEBSOCKET:
            self._packet(packet, now, effects)
        return effects

    def broken(self, now: float) -> list[Effect]:
        """What has come on the session's WebSocket is not a packet."""
        if self.state is not SessionState.WEBSOCKET:
            return []
        return self._end(Step.BREAK, Reason.PARSE_ERROR, now)

    def lose(self, now: float, reason: Reason = Reason.TRANSPORT_CLOSE) -> list[Effect]:
        """The session's WebSocket is gone."""
        return self._end(Step.LOSE, reason, now)

    # The upgrade

    def attach(self, now: float) -> list[Effect]:
        """A WebSocket has come to take over: after these effects it is the candidate, unless it is refused.

        The session goes on either way.
        """
        effects = self._expire(now)
        if not self._step(Step.ATTACH):
            return [*effects, self._refusal()]
        self._attached = now + self._rules.upgrade_timeout
        return effects

    def probe(self, packet: Packet | None, now: float) -> list[Effect]:
        """A packet has come on the candidate; None for what is not a packet. Sessions that are over end with `5`: what
        was sent before goes out on it, and its end is the client's."""
        if packet == PROBE and self._step(Step.PROBE):
            released: list[Effect] = []
            if self.hanging:
                # The client goes over once its GET is answered.
                if not self._queue:
                    self._enqueue(NOOP)
                released = self.flush()
            return [Send(Channel.CANDIDATE, (PROBE_ANSWER,)), *released]
        if packet == UPGRADE and self.state is SessionState.PARTING:
            self._step(Step.UPGRADE)
            self._attached = self._due = _NEVER
            rest = tuple(self._queue or ())[:-1]  # the last one is the end, for polling
            self._drop()
            return [*([Send(Channel.CANDIDATE, rest)] if rest else []), HangUp(Channel.CANDIDATE)]
        if packet == UPGRADE and self._step(Step.UPGRADE):
            self._attached = _NEVER
            effects: list[Effect] = []
            if self.hanging:
                self.hanging = False
                effects.append(Send(Channel.POLL, (NOOP,)))
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
        """Take a step; False where the table has none."""
        after = TRANSITIONS.get((self.state, step))
        if after is None:
            return False
        self.state = after
        return True

    def _packet(self, packet: Packet, now: float, effects: list[Effect]) -> bool:
        """Take one packet of the client; True if it had no place here."""
        if type(packet) is not str:
            effects.append(packet)
            return False
        kind = packet[0]
        if kind == MESSAGE:
            effects.append(packet[1:])
        elif kind == (PONG if self.protocol == 4 else PING):
            self._heard(now)
            if self.protocol == 3 and not (self._queue and self._queue[-1] == PONG):  # one answer is for all
                effects += self.send(PONG)
        elif kind == CLOSE:
            effects += self._end(Step.LEAVE, Reason.TRANSPORT_CLOSE, now)
        elif kind != NOOP:
            effects += self._end(Step.BREAK, Reason.PARSE_ERROR, now)
            return True
        return False

    def _heard(self, now: float) -> None:
        rules = self._rules
        fetches = self.state is SessionState.WEBSOCKET or self.hanging
        if not fetches and now - self._fetched > rules.ping_interval + rules.ping_timeout:
            return  # it says that it lives, and is not there to hear us
        if self.protocol == 3:
            self._due = now + rules.ping_interval + rules.ping_timeout
        elif self._pinged:
            self._pinged = False
            self._due = now + rules.ping_interval
        if self._held is not None:
            self._held = now

    def _expire(self, now: float) -> list[Effect]:
        """A request that comes at a deadline or after it finds it past, however coarse the timer is."""
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
        if before is SessionState.WEBSOCKET and step is not Step.LOSE:
            effects.append(HangUp(Channel.WEBSOCKET, reason))
        if self._attached != _NEVER and self.state is not SessionState.PARTING:
            self._attached = _NEVER
            effects.append(HangUp(Channel.CANDIDATE))
        if self.state is not SessionState.CLOSED:
            # The client fetches what is left, and hears that it was the last.
            if step is Step.LEAVE:
                self._drop()
            self._enqueue(NOOP if step is Step.LEAVE else CLOSE)
            self._due = now + self._rules.last_poll
            return [*effects, *self.flush(), Over(reason)]
        if self.hanging:
            self.hanging = False
            effects.append(Send(Channel.POLL, (CLOSE,)))
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
        return Refuse(UNKNOWN_SID if self.state is SessionState.CLOSED else BAD_REQUEST)

    def _enqueue(self, *packets: Packet) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.extend(packets)
        self.queued += sum(map(len, packets))

    def _drop(self) -> None:
        self._queue = None
        self.queued = 0

    def _answer(self) -> Send:
        """Take what a GET may carry. The last packet of a closed session closes it for good."""
        queue = self._queue
        assert queue
        count = min(len(queue), MOST_PACKETS)
        if 1 < count == len(queue) and self.state in _OVER:
            # The end has a body of its own, as from Node's server: socket.io-client 4 handles messages a turn later
            # than the end that follows them in one body, and tells each socket twice that it is disconnected.
            count -= 1
        packets = tuple([queue.popleft() for _ in range(count)])
        self.queued -= sum(map(len, packets))
        if not queue:
            self._queue = None
            if self.state in _OVER:
                self._done()
        return Send(Channel.POLL, packets)
