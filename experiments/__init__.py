"""Experiments of the project itself, outside the wheel: the table of methods and the realness of rendered nodules."""
