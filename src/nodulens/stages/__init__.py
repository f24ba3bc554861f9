"""The steps from a CT to graded nodules, one module each, in the order of the pipeline."""
