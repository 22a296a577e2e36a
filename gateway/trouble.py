"""Trouble: what the outside world has against what a command is to do."""

from __future__ import annotations


class Trouble(Exception):
    """It could not be done, and that is nobody's mistake in the code: the text says why in one line, for people."""
