"""The device, WGSL kernels and the recording of their dispatches."""
