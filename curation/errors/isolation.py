"""The one place that says whose fault an error is: one source's, this machine's, or our own.

    with isolated(DecodeError):
        frame = next(frames)        # whatever a damaged file makes a library raise is a DecodeError

Only code of libraries and stages that looks at one source belongs inside, or the import of a module that
others wrote. The core's own bookkeeping stays outside, so that a mistake in it stops the run.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from curation.errors.errors import (
    CurationError,
    DeviceMemoryFault,
    EnvironmentFault,
    SampleError,
    StorageError,
)

_NO_HANDLES = frozenset({errno.EMFILE, errno.ENFILE})
_NO_STORAGE = frozenset(
    {
        errno.EIO,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
    }
)
"""What a disk or a mount says when it is full, broken or away, and not of one file alone."""


@contextmanager
def isolated(kind: type[CurationError]) -> Iterator[None]:
    """Make a `kind` of whatever a sample or a source makes others raise.

    A MemoryError is the sample's: what raises one is a single allocation of a size that a header made up,
    while a machine that runs short of memory kills the process, which the pool sees.

    Raises:
        SampleError: raised inside as such, or any other exception as `kind`, with its type and message.
        StorageError: a disk or a mount failed.
        EnvironmentFault: this machine has no file handles or no device memory left.
        CurationError: any other of ours, as it is.
    """
    try:
        yield
    except SampleError as error:
        _raise_fault(error.__cause__)
        raise
    except CurationError:
        raise
    except Exception as error:
        _raise_fault(error)
        raise kind(described(error)) from error


def described(error: BaseException) -> str:
    """Type and message of an exception that nobody foresaw, on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def machine_fault(error: BaseException | None) -> StorageError | EnvironmentFault | None:
    """What to raise if this machine, and no source, is to blame for `error`; else None."""
    # torch's error, which need not be imported here.
    if any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__):
        return DeviceMemoryFault(str(error))
    if not isinstance(error, OSError):
        return None
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if error.errno in _NO_HANDLES:
        return EnvironmentFault(f"{what}; raise the limit of this machine (ulimit -n)")
    # FFmpeg has codes of the same names for damaged files.
    if error.errno in _NO_STORAGE and type(error).__module__ == "builtins":
        return StorageError(what)
    return None


def _raise_fault(error: BaseException | None) -> None:
    fault = machine_fault(error)
    if fault is not None:
        raise fault from error
