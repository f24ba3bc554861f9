"""Types: where voxels lie, what they hold, and what a nodule is."""
