"""The benchmark: server CPU per operation, measured beside its peers.

`python -m bench` runs it; README.md says what is measured and how to read the table.
"""
