"""Parallel bulk builds of content-addressed Zarr hierarchies."""

__version__ = "0.1.0"
