"""Frameworks that train in an environment of their own: nnU-Net and YOLO."""
