"""The default method's four networks and its forest, which ship: samples, training, calibration and release."""
