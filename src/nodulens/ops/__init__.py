"""Small operations on arrays and grids that several stages share."""
