"""A Kafka cluster inside the process: librdkafka's own mock brokers, by their C interface.

The mock speaks the protocol on loopback ports, so that other handles and other processes connect to it as to any
broker. It cannot create topics on request, and gives those made by use four partitions; here they are made directly.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Cluster", "cluster"]

FETCH, PRODUCE, INIT_PRODUCER = 1, 0, 22  # keys of requests in the protocol
SETTINGS = {"fetch.wait.max.ms": 5}  # the mock answers an empty fetch at the end of its wait, not when something comes


class Cluster:
    """`servers` is what a client connects to. Broker numbers begin at 1."""

    def __init__(self, library: ctypes.CDLL, handle: int, brokers: int) -> None:
        self.library = library
        self.handle = library.rd_kafka_mock_cluster_new(handle, brokers)
        self.brokers = brokers
        self.servers: str = library.rd_kafka_mock_cluster_bootstraps(self.handle).decode()

    def topic(self, name: str, partitions: int = 1) -> str:
        assert not self.library.rd_kafka_mock_topic_create(self.handle, name.encode(), partitions, self.brokers)
        return name

    def drop(self, name: str) -> None:
        assert not self.library.rd_kafka_mock_topic_delete(self.handle, name.encode())

    def forget(self, name: str, before: int) -> None:
        """What retention does: messages before a position are gone."""
        deleted = self.library.rd_kafka_mock_partition_delete_records(self.handle, name.encode(), 0, before)
        assert not deleted

    def down(self) -> None:
        for broker in range(1, self.brokers + 1):
            assert not self.library.rd_kafka_mock_broker_set_down(self.handle, broker)

    def up(self) -> None:
        for broker in range(1, self.brokers + 1):
            assert not self.library.rd_kafka_mock_broker_set_up(self.handle, broker)

    def slow(self, ms: int) -> None:
        for broker in range(1, self.brokers + 1):
            assert not self.library.rd_kafka_mock_broker_set_rtt(self.handle, broker, ms)

    def fail(self, request: int, *codes: int) -> None:
        """The next requests of a kind are answered with these error codes."""
        errors = (ctypes.c_int * len(codes))(*codes)
        self.library.rd_kafka_mock_push_request_errors_array(self.handle, request, len(codes), errors)

    def leader(self, name: str, broker: int) -> None:
        assert not self.library.rd_kafka_mock_partition_set_leader(self.handle, name.encode(), 0, broker)


@contextmanager
def cluster(brokers: int = 3) -> Iterator[Cluster]:
    library = _library()
    told = ctypes.create_string_buffer(512)
    configuration = library.rd_kafka_conf_new()
    for name, value in ((b"bootstrap.servers", b"127.0.0.1:9"), (b"log_level", b"0")):  # its own brokers are elsewhere
        assert not library.rd_kafka_conf_set(configuration, name, value, told, 512)
    handle = library.rd_kafka_new(0, configuration, told, 512)
    assert handle, told.value
    made = Cluster(library, handle, brokers)
    try:
        yield made
    finally:
        library.rd_kafka_mock_cluster_destroy(made.handle)
        library.rd_kafka_destroy(handle)


def _library() -> ctypes.CDLL:
    import confluent_kafka

    folder = Path(confluent_kafka.__file__).parent
    bundled = sorted(folder.with_name("confluent_kafka.libs").glob("librdkafka*.so*"))
    library = ctypes.CDLL(str(bundled[0]) if bundled else "librdkafka.so.1")
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_topic_delete": (number, [pointer, text]),
        "rd_kafka_mock_partition_delete_records": (number, [pointer, text, ctypes.c_int32, ctypes.c_int64]),
        "rd_kafka_mock_partition_set_leader": (number, [pointer, text, ctypes.c_int32, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_down": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_up": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_rtt": (number, [pointer, ctypes.c_int32, number]),
        "rd_kafka_mock_push_request_errors_array": (
            None,
            [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)],
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
