"""What nodes that share a log also share: registrations, sessions, revocations, and who is where."""
