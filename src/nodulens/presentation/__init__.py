"""Figures, panels, tables and pages of an evaluation."""
