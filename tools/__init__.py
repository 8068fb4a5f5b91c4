"""What maintainers run from the repository's top folder. No wheel installs it."""
