"""`uvicorn partyline.asgi:app`: the whole server under any ASGI server, with settings from the environment."""

from __future__ import annotations

from partyline.mounting import Application

app = Application()
