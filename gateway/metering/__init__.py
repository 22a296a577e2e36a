"""Metering: what was used, written down before the answer is complete, and carried to the books."""
