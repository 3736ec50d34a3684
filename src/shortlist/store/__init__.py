"""Online state by key: one protocol, one conformance suite, several homes."""

from shortlist.store.base import State, Store

__all__ = ["Store", "State"]
