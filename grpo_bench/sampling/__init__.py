"""Sigma grids, transition kernels and the engine that grows a forest."""
