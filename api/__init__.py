"""Litestar in, bytes out: the HTTP side. Knows the engine by its public surface, and no torch."""

__version__ = "0.1.0"
