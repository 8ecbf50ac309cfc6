"""Digest of the values of a stored part: it finds damages that the checksums of Parquet's pages do not cover."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from sweeper.storage.schema import META, VERSION

DIGEST = b"sweeper.crc32"
"""Key of the digest in the metadata of a part; parts of earlier versions have none."""


def digest_values(data: pa.Table) -> bytes:
    """Return the CRC-32 of a part's kind, version, columns, types and values as eight hexadecimal digits.

    It does not depend on chunks, on offsets into buffers, or on what lies in the place of a missing value.

    Args:
        data: The part, with its metadata; columns of texts, and of numbers of whole bytes.

    Source: CRC-32 of ISO 3309, as in zlib; little-endian values and 32-bit offsets, as in Arrow's columnar format 1.0.
    """
    known = data.schema.metadata or {}
    crc = zlib.crc32(b"\0".join((known.get(META, b""), known.get(VERSION, b""))))
    for name, column in zip(data.column_names, data.columns, strict=True):
        crc = zlib.crc32(f"{name}\0{column.type}\0{len(column)}\0".encode(), crc)
        for part in _list_bytes(column):
            crc = zlib.crc32(part, crc)
    return f"{crc:08x}".encode()


def _list_bytes(column: pa.ChunkedArray) -> Iterator[Any]:
    missing = column.null_count
    if missing == len(column):
        return
    if missing:
        yield _read_bytes(_join(column.is_null()).cast(pa.uint8()), 1)
        column = column.drop_null()
    values = _join(column)
    if values.type == pa.string():
        _, offsets, text = values.buffers()
        places = memoryview(offsets)[4 * values.offset : 4 * (values.offset + len(values) + 1)].cast("i")
        # texts that start elsewhere in the buffer are the same texts
        yield places if places[0] == 0 else bytes(memoryview(pa.array(places).cast(pa.int32())))
        yield memoryview(text or b"")[places[0] : places[-1]]
    else:
        yield _read_bytes(values, values.type.bit_width // 8)


def _join(column: pa.ChunkedArray) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _read_bytes(values: Any, width: int) -> memoryview:
    return memoryview(values.buffers()[1])[width * values.offset : width * (values.offset + len(values))]
