"""One module a backend. They answer to `reference` and never import each other."""
