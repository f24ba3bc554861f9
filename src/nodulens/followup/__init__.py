"""Scans of one patient over time: registered, their nodules paired, and what changed."""
