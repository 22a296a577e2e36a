"""An edge process, put together from a configuration, and again at a reload."""
