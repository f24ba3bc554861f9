"""The stages of an analysis, one module each; all work on a volume in canonical orientation."""
