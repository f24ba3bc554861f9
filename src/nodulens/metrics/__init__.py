"""The figures of the field as functions of arrays: detection, segmentation, classification, agreement, statistics."""
