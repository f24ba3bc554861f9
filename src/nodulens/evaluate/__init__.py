"""Judging methods, runs and networks on patients that they were not trained on."""
