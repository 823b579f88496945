"""Cases of the kernels, by folder of web/kernels."""
