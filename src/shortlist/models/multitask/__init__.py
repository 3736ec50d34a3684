"""Heads: what several tasks share of a ranker's representation, and what each has of its own."""
