"""What a survey of an input finds, in a folder or in a bucket."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

FILES = pa.schema([("key", pa.binary()), ("size_bytes", pa.int64()), ("etag", pa.string())])
"""Files as a survey gives them. The bytes of keys are those of the storage, whatever they spell."""
READ_AS_FOLDER = "a folder, and read as one"
"""What is said of a folder that is called like a file to read."""


@dataclass
class Survey:
    """What lies below one root. Keys are relative to it, with `/`.

    Attributes:
        files: Every file that is not hidden (`FILES`), by key; links to nothing among them, if their name
            is one to read.
        hidden: Names that begin with a dot; folders end with `/` and are not looked into.
        not_files: Key -> what it is: a FIFO, a device, a link to nothing, a folder with the name of a file.
        repeated: Key ("" for the root itself) -> path under which the same thing is read.
    """

    files: pa.Table = field(default_factory=FILES.empty_table)
    hidden: list[str] = field(default_factory=list)
    not_files: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, str] = field(default_factory=dict)


def by_key(files: pa.Table) -> pa.Table:
    """Files sorted by `key`, in one piece."""
    files = files.combine_chunks()
    keys = files["key"]
    if pc.all(pc.less_equal(keys[:-1], keys[1:])).as_py():
        return files
    return files.take(pc.sort_indices(keys)).combine_chunks()
