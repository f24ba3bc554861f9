"""Metrics as functions of arrays: detection, segmentation, classification, agreement, statistics."""
