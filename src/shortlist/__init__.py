"""shortlist: an interaction log and a catalogue become a measured, explained, multi-stage recommender."""

__version__ = "0.1.0"
