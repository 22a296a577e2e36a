"""The demo upstream: an API to stand behind the gateway while one tries it out. It is not part of the product."""
