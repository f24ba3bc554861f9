"""Types: geometry, volumes, masks and nodules."""
