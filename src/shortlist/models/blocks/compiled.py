"""Compiled loops for models: those of `tables/compiled.py`. Import this only inside a function."""

from shortlist.tables.compiled import dividing, in_blocks, loop, summing

__all__ = ["loop", "summing", "dividing", "in_blocks"]
