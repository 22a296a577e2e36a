"""Directory: the callers that a control plane has published, as an edge process knows them."""
