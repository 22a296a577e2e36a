"""WebSocket: what RFC 6455 says of handshakes and frames. No socket, no clock."""
