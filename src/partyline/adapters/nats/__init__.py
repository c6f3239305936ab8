"""NATS: a log and tables in JetStream, and a bus of plain subjects."""
