"""Files of an output that are not what was written, for `curation gc --damaged`.

    found = find_damaged(storage)
    for key, why in found.items():
        remove_damaged(storage, key)

What was in them is made anew by the next run: rows are measured again, sources probed, containers listed,
and shards written. Shards themselves are checked by `curation verify`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath

from curation.errors import DamagedFileError
from curation.execution.record.run_record import RUN, forget_run, read_run
from curation.ledger import Ledger
from curation.ledger.present import PRESENT, listed_uris
from curation.registry import MANIFEST, READ_MANIFEST, load
from curation.storage import Storage, parquet

_LISTING = re.compile(r"listing/[^/]+\.parquet")


def is_output(storage: Storage) -> bool:
    """Whether a run has been there, whatever became of its files."""
    return storage.find(RUN) is not None or bool(storage.list("sources"))


def find_damaged(storage: Storage) -> dict[str, str]:
    """Key of each damaged file, and what is wrong with it. Every byte of the ledger is read."""
    found: dict[str, str] = {}
    _check(found, RUN, partial(read_run, storage))
    found |= Ledger(storage).damaged()
    _check(found, PRESENT, partial(listed_uris, storage))
    for item in storage.list("listing"):
        if item.key != PRESENT and _LISTING.fullmatch(item.key):
            _check(found, item.key, partial(_read_table, storage, item.key))
    manifest = load(MANIFEST)
    for item in storage.list("shards"):
        path = PurePosixPath(item.key)
        if path.name == manifest and len(path.parts) == 3:
            _check(found, item.key, partial(load(READ_MANIFEST), storage, str(path.parent)))
    return found


def remove_damaged(storage: Storage, key: str) -> None:
    """Remove a damaged file. Only for who holds the output alone."""
    if key == RUN:
        forget_run(storage)
    elif key.startswith(("sources/", "ledger/")):
        Ledger(storage).remove_damaged(key)
    else:
        storage.delete(key)


def _read_table(storage: Storage, key: str) -> None:
    with storage.open(key) as file:
        parquet.read_columns(file, key)


def _check(found: dict[str, str], key: str, read: Callable[[], object]) -> None:
    try:
        read()
    except DamagedFileError as error:
        found.update((key, why) for why in error.found.values())
