"""Upstream: the services behind the gateway, and everything it takes to call one."""
