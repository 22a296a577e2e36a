"""One file or folder per plugin: the name in the configuration is the name of the module."""
