"""Embedded: a real Valkey and a real PostgreSQL, from wheels, for running everything on one machine with one command.

Both listen on a loopback port, ask for a password that is made once and kept in a file of ours, keep their data
between runs, and end with the process that started them, also when that one is killed.
"""

from gateway.embedded.home import EmbeddedError
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedError", "EmbeddedPostgres", "EmbeddedValkey"]
