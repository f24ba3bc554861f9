"""Results as DICOM objects that belong to the study of the scan: SEG, SR, secondary captures, RTSTRUCT."""
