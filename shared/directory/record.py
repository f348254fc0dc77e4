"""What is published: the whole directory as one record of JSON on `directory.v1`.

The record's size is judged compressed, as Kafka keeps it.
"""

from __future__ import annotations

import gzip

import msgspec

from shared.directory import model

LARGEST = 16 * 1024 * 1024
"""Bytes of the compressed record: the limit of the topic `directory.v1`."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(model.Directory)


class RecordTooLarge(ValueError):
    """The directory does not fit into one record."""


def encode(directory: model.Directory) -> bytes:
    """Return the record, not compressed. Raises RecordTooLarge."""
    record = _encoder.encode(directory)
    # A record that is small as it is needs no second look; a large one is compressed fast, which errs upwards.
    if len(record) > LARGEST and (size := len(gzip.compress(record, compresslevel=1))) > LARGEST:
        raise RecordTooLarge(
            f"the directory has {size / 1048576:.1f} MiB compressed and {LARGEST // 1048576} MiB fit into one record "
            f"({len(directory.customers)} customers, {len(directory.people)} people); split it by company"
        )
    return record


def decode(record: bytes) -> model.Directory:
    """Return the directory of a record. Raises msgspec.DecodeError when it is not one."""
    return _decoder.decode(record)
