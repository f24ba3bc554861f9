"""The default method's four networks, which ship with the package: samples, training, calibration and release."""
