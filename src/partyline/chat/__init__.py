"""The chat: rooms that remember, and a stranger at the press of a button. An application on Partyline's public names.

The page (`static/`) and the server exchange Socket.IO events. An answer is the acknowledgement; a refusal is
`{"error": code, "message": text, "field"?, "wait"?}`, with `wait` in seconds if it is a matter of time.

`/chat`, rooms; a message is `{id, by, name, text, time}`: `id` is chosen by its author, `by` is a hash of their key,
`time` is in ms since 1970. A `room` in an answer is the name without invisible characters.

| from the page | answer |
| --- | --- |
| `enter` {room, name, key} | {me, room, messages, before, people: [{by, name}], count}; `me` is one's own `by` |
| `older` before | {messages, before}; `before` is null where the log begins |
| `say` {id, text} | {}; the same id once more is not said again |
| `typing` on | |

| to the page | when |
| --- | --- |
| `said` message | somebody, oneself too, has said something, and it is kept |
| `typing` {by, name, on} | |
| `came` {by, name, count}, `left` {by, count} | a person's page, or their name is another now; with their last page |

`/stranger`, where nothing is kept; CONNECT brings {key}. Pages with the same key are one person, who is never paired
with themselves, and whose blocks and reports last while the server runs:

| from the page | answer |
| --- | --- |
| `start`, `next` | {}; `paired` follows, at once or later |
| `stop` | {} |
| `say` {id, text} | {}; the same id once more in this talk is not said again |
| `typing` on | |
| `block`, `report` | {}; ends the talk, and may come after it |

| to the page | when |
| --- | --- |
| `hello` {run} | it is connected; `run` names this run of the server |
| `online` count | it is connected, and when the number of connected pages has changed |
| `paired`, `left` | a talk begins; the other one has ended it |
| `elsewhere` | another page of the same person is looking for somebody now, and this one has stopped |
| `said` {text, time}, `typing` on | the other one |
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import partyline
from partyline.chat.rooms import Rooms
from partyline.chat.strangers import Strangers

STATIC = Path(__file__).parent / "static"


def extras() -> list[Any]:
    """What `partyline.build(settings, extras=...)` serves: the page at `/`, its Socket.IO server at `/socket.io/`."""
    io = partyline.SocketIO()
    Rooms(io.namespace("/chat"))
    Strangers(io.namespace("/stranger"))
    return [io, partyline.Pages(STATIC)]
