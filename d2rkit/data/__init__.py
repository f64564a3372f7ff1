"""Data sets as uint8 tensors: read, checked, split and augmented."""
