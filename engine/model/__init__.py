"""The only package that imports torch, transformers, snac and kernels."""
