"""What a network of a recipe learns: segmentation, false-positive reduction, classification."""
