"""One module per backend. All answer to `reference`, and none imports another."""
