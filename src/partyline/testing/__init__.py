"""What tests of and with Partyline need: contract suites, fakes, clocks."""

from partyline.testing.clock import Clock

__all__ = ["Clock"]
