"""Model files: which there are, whether they are intact, and how to run them."""
