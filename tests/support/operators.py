"""What tests of operators' inputs share."""

from collections.abc import Callable

Shows = Callable[[int, str, str], None]
"""Adds a row to the table of tests/operators: the kind, the input as typed, the message that was printed."""
