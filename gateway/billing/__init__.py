"""Billing: usage frames become rows, once each. Runs in the worker; the edge never imports it."""
