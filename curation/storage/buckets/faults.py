"""What goes wrong between us and a bucket, by what a run does about it.

with named_faults("s3://bucket/key"):
    store.get(...)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from curation.errors import StorageError, WriteConflict

_REFUSED = re.compile(r'(?:Path|parsing Path) "(.*?)"(?: contained|: Encountered)', re.DOTALL)


class UnreadableKey(StorageError):
    """obstore refuses a key.

    Attributes:
        key: Which one.
    """

    def __init__(self, message: str = "", *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


@contextmanager
def named_faults(url: str) -> Iterator[None]:
    """What obstore says about an object or a bucket, as a StorageError. FileNotFoundError passes.

    Raises:
        WriteConflict: another writer was first, or it is not the version that was asked for any more.
        UnreadableKey: obstore refuses the key, or that of an object in a listing.
        StorageError: all else.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError) as error:
        raise WriteConflict(f"{url} was written by someone else") from error
    except FileNotFoundError:
        raise
    except InvalidPathError as error:
        found = _REFUSED.search(str(error))
        key = found[1] if found else ""
        raise UnreadableKey(f"{url}: the key {key!r} can't be read; rename that object", key=key) from error
    except (BaseError, OSError, ValueError) as error:
        raise StorageError(f"{url}: {error}") from error
