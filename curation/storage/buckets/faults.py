"""What goes wrong between us and a bucket, by what a run does about it.

with named_faults("s3://bucket/key"):
    store.get(...)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from curation.errors import StorageError, WriteConflict


@contextmanager
def named_faults(url: str) -> Iterator[None]:
    """What obstore says about an object or a bucket, as a StorageError. FileNotFoundError passes.

    Raises:
        WriteConflict: another writer was first, or it is not the version that was asked for any more.
        StorageError: all else.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError) as error:
        raise WriteConflict(f"{url} was written by someone else") from error
    except FileNotFoundError:
        raise
    except (BaseError, OSError, ValueError) as error:
        raise StorageError(f"{url}: {error}") from error
