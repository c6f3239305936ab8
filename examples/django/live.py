"""The relay: one for the process, imported by whoever publishes."""

import partyline

relay = partyline.Application()
