"""HTTP/1.1 as bytes, without a socket in sight: the grammar, and a reader for each side of the gateway."""
