"""Regions of interest in files, on the grid of a scan: DICOM SEG, RTSTRUCT and SR, and masks in image files."""
