"""Decides: the rules file and the facts of a call in, verdicts out. No I/O, no clock, no environment of its own."""
