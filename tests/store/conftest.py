"""One Redis server for all tests of stores."""

from collections.abc import Iterator

import pytest
from tests.store.servers import Server, patience

__all__ = ["patience", "server"]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("redis"))
    try:
        yield started
    finally:
        started.stop()
