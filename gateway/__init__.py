"""Tallygate, the API gateway that bills."""

__version__ = "0.1.0"
