"""Towards the clients: from the first byte of a connection to the last byte of an answer."""
