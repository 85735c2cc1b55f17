"""Hand-made kernels for CPUs, each with a way back to PyTorch's own."""
