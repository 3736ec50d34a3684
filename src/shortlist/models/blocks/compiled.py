"""Compiled loops for models: those of `tables/compiled.py`. Import this only inside a function."""

from shortlist.tables.compiled import in_blocks, loop

__all__ = ["loop", "in_blocks"]
