"""Reads an object in a process of its own, for programs that fork after they have read from a bucket.

    data = read_aside("s3://bucket/shards/name/manifest.json")

A process that has used obstore has threads which a forked child lacks, so that the child would wait for them
for ever. PyTorch's DataLoader forks its workers: what the training program itself needs of a bucket it reads
so.
"""

from __future__ import annotations

import subprocess
import sys

from curation.errors import CurationError, StorageError

_ABSENT = 4


def read_aside(url: str) -> bytes | None:
    """The whole object, or None where there is none.

    Raises:
        StorageError: it can't be read.
    """
    command = [sys.executable, "-m", "curation.storage.buckets.aside", url]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603  our own module
    if done.returncode == _ABSENT:
        return None
    if done.returncode:
        raise StorageError(
            done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"{url}: not read"
        )
    return done.stdout


def _main(url: str) -> int:
    from curation.storage import storage_of

    try:
        storage, key = storage_of(url)
        data = storage.read(key)
    except CurationError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.buffer.write(data or b"")
    return _ABSENT if data is None else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
