"""The results of an analysis: record, JSON, CSV, page with pictures, and the folder of outputs."""
