"""Exact search over Vectors, by the name it had before there were kinds."""

__all__ = ["FlatIndex"]

from shortlist.index.vectors import VectorIndex as FlatIndex
