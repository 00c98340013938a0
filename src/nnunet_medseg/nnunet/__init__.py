"""The one door to nnU-Net."""
