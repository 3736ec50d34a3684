"""Online state by key: one protocol of blobs, one conformance suite, three homes; and what the blobs say of users."""

from shortlist.store.base import State
from shortlist.store.blobs import Blobs
from shortlist.store.states import States

__all__ = ["Blobs", "State", "States"]
