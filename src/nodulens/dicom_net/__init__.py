"""Sending DICOM files to an archive, by C-STORE and by DICOMweb, where a user asks for it."""
