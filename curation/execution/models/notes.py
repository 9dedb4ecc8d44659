"""What a model worker has begun, noted where its death does not reach it: in Ray's own key-value store.

    with noted("call 7"):
        ...             # whoever finds the note after a death knows what it is due to

A process that is killed can't say what it was busy with, and what it sent last may be lost with it. A note is
there before the work begins; making one took 0.4 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def noted(name: str) -> Iterator[None]:
    """Note that something is begun; the note goes when it ends, but stays when the process does."""
    note(name)
    try:
        yield
    finally:
        take_note(name)


def note(name: str) -> None:
    """Make a note."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(_key(name), b"begun")


def take_note(name: str) -> bool:
    """Whether there is such a note; it is gone now."""
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_exists

    is_there = bool(_internal_kv_exists(_key(name)))
    if is_there:
        _internal_kv_del(_key(name))
    return is_there


def _key(name: str) -> bytes:
    return f"curation: {name}".encode()
