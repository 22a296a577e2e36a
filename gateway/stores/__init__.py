"""Stores: where state lives that several processes share."""
