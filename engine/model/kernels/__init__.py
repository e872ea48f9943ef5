"""Kernels: one a file, each with its torch reference beside it or named in it."""
