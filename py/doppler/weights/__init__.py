"""Verified bytes -> matrices on the GPU, in the layout that kernels read."""
