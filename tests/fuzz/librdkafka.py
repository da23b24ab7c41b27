"""A producer of header keys that are not UTF-8, which confluent-kafka cannot write. It calls the same C library."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka

from tests.testkit.wait import DEADLINE_S

# rdkafka.h: enum rd_kafka_vtype_t, RD_KAFKA_MSG_F_COPY, RD_KAFKA_PRODUCER
_END, _TOPIC, _, _PARTITION, _VALUE, _KEY, _, _FLAGS, _, _HEADER = range(10)
_COPY = 2
_PRODUCER = 0


class _Argument(ctypes.Structure):
    """rd_kafka_vu_t: a tag, and a union of 64 bytes that begins with one of these."""

    class _Union(ctypes.Union):
        class _Header(ctypes.Structure):
            _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_char_p), ("size", ctypes.c_ssize_t))

        class _Memory(ctypes.Structure):
            _fields_ = (("pointer", ctypes.c_char_p), ("size", ctypes.c_size_t))

        _fields_ = (
            ("text", ctypes.c_char_p),
            ("number", ctypes.c_int),
            ("memory", _Memory),
            ("header", _Header),
            ("_pad", ctypes.c_char * 64),
        )

    _fields_ = (("tag", ctypes.c_int), ("of", _Union))


def _library() -> ctypes.CDLL:
    package = Path(confluent_kafka.__file__).parent
    folders = (package.parent / "confluent_kafka.libs", package / ".dylibs")
    (path,) = (path for folder in folders for path in folder.glob("librdkafka*"))
    library = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_produceva"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


def produce_with_header(servers: str, topic: str, key: bytes, value: bytes, header: tuple[bytes, bytes]) -> None:
    """Send one message to partition 0 with a header whose key is any bytes but NUL."""
    library = _library()
    error = ctypes.create_string_buffer(512)
    settings = ctypes.c_void_p(library.rd_kafka_conf_new())
    assert library.rd_kafka_conf_set(settings, b"bootstrap.servers", servers.encode(), error, 512) == 0, error.value
    producer = ctypes.c_void_p(library.rd_kafka_new(_PRODUCER, settings, error, 512))
    assert producer, error.value
    union = _Argument._Union
    arguments = [
        _Argument(_TOPIC, union(text=topic.encode())),
        _Argument(_PARTITION, union(number=0)),
        _Argument(_FLAGS, union(number=_COPY)),
        _Argument(_KEY, union(memory=(key, len(key)))),
        _Argument(_VALUE, union(memory=(value, len(value)))),
        _Argument(_HEADER, union(header=(header[0], header[1], len(header[1])))),
    ]
    try:
        packed = (_Argument * len(arguments))(*arguments)
        assert library.rd_kafka_produceva(producer, packed, ctypes.c_size_t(len(packed))) is None
        assert library.rd_kafka_flush(producer, DEADLINE_S * 1000) == 0
    finally:
        library.rd_kafka_destroy(producer)
