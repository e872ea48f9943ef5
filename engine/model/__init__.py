"""The only package that imports torch, snac and kernels."""
