"""Admin: what operators ask of a node, over HTTP and on a page."""
