"""The four networks that ship: their material, training, calibration and release."""
