"""TLS on both sides: what listeners present and whom they believe, what upstreams must show, and the bytes between."""
