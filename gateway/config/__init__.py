"""Configuration: from YAML on disk to checked option classes, and the references made of them."""
