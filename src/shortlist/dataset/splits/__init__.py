"""Protocols: one file each, found by `split.use`. Each makes a `Split` from interactions and dice."""
