"""Where table work runs: one set of expressions, several engines."""
