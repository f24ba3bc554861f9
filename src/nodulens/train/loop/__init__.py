"""One training loop for every network: batches, losses, augmentation, processes, learning curves, export."""
