"""The default method's four networks, which ship with the package: material, training, calibration and release."""
