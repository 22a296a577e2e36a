"""The control plane: who there is and what they may do, kept in PostgreSQL, changed over an API, published."""
