"""The one place that says whose fault an error is: one source's, this machine's, or our own.

    with isolated(DecodeError):
        frame = next(frames)        # whatever a damaged file makes a library raise is a DecodeError

Only code of libraries and stages that looks at one source belongs inside, or the import of a module that
others wrote. The core's own bookkeeping stays outside, so that a mistake in it stops the run.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from curation.errors.errors import (
    CurationError,
    EnvironmentFault,
    MissingDependencyError,
    SampleError,
    StorageError,
)
from curation.errors.gpu import gpu_fault

_NO_HANDLES = frozenset({errno.EMFILE, errno.ENFILE})
_NO_PROCESSES = frozenset({errno.EAGAIN, errno.ENOMEM})
"""What a system says that has no memory, or no number, left for a thread or a process."""
_NO_STORAGE = frozenset(
    {
        errno.EIO,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
    }
)
"""What a disk or a mount says when it is full, broken or away, and not of one file alone."""
_TEXTS = {
    **{os.strerror(code): StorageError for code in (errno.ENOSPC, errno.EDQUOT)},
    **{os.strerror(code): EnvironmentFault for code in _NO_HANDLES},
    "can't start new thread": EnvironmentFault,
    "partially initialized module": EnvironmentFault,
}
"""The same in the words of libraries whose errors have no codes."""
_CODEC_OPENING = "avcodec_open2"
"""FFmpeg's function that starts a codec's threads, before it has seen one packet."""


@contextmanager
def isolated(kind: type[CurationError]) -> Iterator[None]:
    """Make a `kind` of whatever a sample or a source makes others raise.

    A MemoryError is the sample's: what raises one is a single allocation of a size that a header made up,
    while a machine that runs short of memory kills the process, which the pool sees.

    Raises:
        SampleError: raised inside as such, or any other exception as `kind`, with its type and message.
        StorageError: a disk or a mount failed.
        EnvironmentFault: this machine has no file handles, no threads or no GPU memory left, a GPU has
            failed, or a package can't be imported.
        WorkerError: this process can't use its GPU any more.
        CurationError: any other of ours, as it is.
    """
    try:
        yield
    except SampleError as error:
        _raise_fault(error)
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


def machine_fault(error: BaseException) -> CurationError | None:
    """What to raise if this machine, and no source, is to blame for `error`; else None.

    It may also be to blame for what `error` was made of, or happened on the way.
    """
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        fault = _fault(found)
        if fault is not None:
            return fault
        found = found.__cause__ if found.__suppress_context__ else found.__context__
    return None


def may_be_storage(error: BaseException | None) -> bool:
    """Whether FFmpeg said of a file what a broken disk would make it say, and a damaged file may as well."""
    return isinstance(error, OSError) and error.errno in _NO_STORAGE and _is_of_ffmpeg(error)


def _fault(error: BaseException) -> CurationError | None:
    if isinstance(error, CurationError):
        return None
    if isinstance(error, ImportError):
        return MissingDependencyError(described(error))
    if isinstance(error, OSError) and error.errno is not None:
        return _system_fault(error)
    return gpu_fault(error) or _named_fault(error)


def _system_fault(error: OSError) -> StorageError | EnvironmentFault | None:
    what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if error.errno in _NO_HANDLES:
        return EnvironmentFault(f"{what}; raise the limit of this machine (ulimit -n)")
    # FFmpeg has codes of the same names for damaged files.
    if error.errno in _NO_PROCESSES and (not _is_of_ffmpeg(error) or _CODEC_OPENING in what):
        return EnvironmentFault(f"{what}; this machine has no memory or no threads left")
    if error.errno in _NO_STORAGE and not _is_of_ffmpeg(error):
        return StorageError(what)
    return None


def _is_of_ffmpeg(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "av"


def _named_fault(error: BaseException) -> CurationError | None:
    """What a text says, of an error that has no code."""
    text = str(error)
    return next((kind(described(error)) for words, kind in _TEXTS.items() if words in text), None)


def _raise_fault(error: BaseException) -> None:
    fault = machine_fault(error)
    if fault is not None:
        raise fault from error
