"""The chat: an application on Partyline's public names only."""
