"""The architectures, and how they are built from a recipe."""
