"""A node: its supervisor, its processes, its admin listener, and reloads over all of them."""
