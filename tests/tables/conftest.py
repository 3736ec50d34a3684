"""The engines of table work, each where it can run."""

from collections.abc import Iterator

import pytest

from shortlist.tables.engine import ENGINES, missing


@pytest.fixture(scope="session")
def spark_session() -> Iterator[None]:
    """One small Spark for all tests, no web page beside it: whoever asks for a session gets this one."""
    from pyspark.sql import SparkSession

    made = SparkSession.builder.master("local[1]").appName("tests")
    for name, value in {
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",  # short queries, half the time
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "1",
        "spark.ui.showConsoleProgress": "false",
    }.items():
        made = made.config(name, value)
    session = made.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield
    session.stop()


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    """The name of each engine; a test is skipped for one that lacks something here."""
    return _ready(str(request.param), request)


@pytest.fixture(params=[name for name in ENGINES if name != "polars"])
def other_engine(request: pytest.FixtureRequest) -> str:
    """Each but the one that the others are compared with."""
    return _ready(str(request.param), request)


def _ready(name: str, request: pytest.FixtureRequest) -> str:
    if lacks := missing(name):
        pytest.skip(lacks)
    if name == "spark":
        request.getfixturevalue("spark_session")
    return name
