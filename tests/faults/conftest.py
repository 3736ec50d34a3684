"""Processes to be killed."""

import multiprocessing
from multiprocessing.context import ForkServerContext

import pytest

# All that any test needs: there is one such server a session, and it imports nothing after its start.
ROOMS = (
    "confluent_kafka",
    "shortlist.artifact",
    "shortlist.events.compact",
    "shortlist.events.kafka_log",
    "shortlist.events.workspace",
    "shortlist.feedback.follow",
    "shortlist.store.lmdb",
    "tests.store.world",
)


@pytest.fixture(scope="session")
def forks() -> ForkServerContext:
    """Processes that start in milliseconds: forked from one that has imported these rooms and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(ROOMS))
    return context
