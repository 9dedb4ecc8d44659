"""The footer of our own Parquet files, with a checksum ahead of it.

    data = sealed(written_by_arrow)
    footer = read_footer(file, "ledger/color/f00d/unit-000000.parquet")

Parquet's own checksums (CRC-32) cover the pages, of which a reader takes only those of the columns that it
wants; they leave out the footer, where a single bit may rename a column. The eight bytes ahead of the footer
belong to nobody in Parquet, so other readers pass over a checksum there.
"""

from __future__ import annotations

import zlib
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from curation.errors import DamagedFileError

SEAL = b"curation.seal"
"""Key of the schema's metadata that says that there must be a checksum; files of older versions have none."""
_MAGIC = b"CRCf"
_SEAL_BYTES = 8
_END_BYTES = 8
"""Length of the footer, and `PAR1`."""
_PARQUET = b"PAR1"
_FIRST_READ_BYTES = 1 << 16
"""What is read from the end at first: more than the footer of a unit file."""


def sealed(data: bytes) -> bytes:
    """A Parquet file with the checksum of its footer."""
    start = len(data) - _END_BYTES - int.from_bytes(data[-_END_BYTES:-4], "little")
    return b"".join([data[:start], _seal_of(data[start:]), data[start:]])


def read_footer(file: IO[bytes] | pa.NativeFile, name: str) -> pq.FileMetaData:
    """The footer of an open file, which is what it was when it was written.

    Raises:
        DamagedFileError: it is not, or `name` is no Parquet file.
    """
    seal, footer = _read_end(file, name)
    try:
        found = pq.read_metadata(pa.BufferReader(_PARQUET + footer))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedFileError.of({name: str(error)}) from error
    must_have_seal = SEAL in (found.metadata or {})
    if (seal.startswith(_MAGIC) or must_have_seal) and seal != _seal_of(footer):
        raise DamagedFileError.of({name: "the checksum of its footer is another one"})
    return found


def _seal_of(footer: bytes) -> bytes:
    return _MAGIC + zlib.crc32(footer).to_bytes(4, "little")


def _read_end(file: IO[bytes] | pa.NativeFile, name: str) -> tuple[bytes, bytes]:
    """The bytes ahead of the footer, and the footer up to the end of the file."""
    size = file.seek(0, 2)
    end = _last(file, size, _FIRST_READ_BYTES)
    if not end.endswith(_PARQUET) or size < 2 * _END_BYTES:
        raise DamagedFileError.of({name: f"its {size} bytes are no whole Parquet file"})
    length = int.from_bytes(end[-_END_BYTES:-4], "little") + _END_BYTES
    if length + _SEAL_BYTES > len(end) < size:
        end = _last(file, size, length + _SEAL_BYTES)
    if length > len(end):
        raise DamagedFileError.of({name: f"its footer would be longer than its {size} bytes"})
    return end[-length - _SEAL_BYTES : -length], end[-length:]


def _last(file: IO[bytes] | pa.NativeFile, size: int, num_bytes: int) -> bytes:
    start = max(0, size - num_bytes)
    file.seek(start)
    found = bytearray()
    while data := file.read(size - start - len(found)):
        found += data
    return bytes(found)
