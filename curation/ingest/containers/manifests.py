"""Lists of files: `metadata.csv`, and JSONL (`metadata.jsonl` as Hugging Face's imagefolder has it).

Each line stands for the file that it names, relative to the list or to the input, and adds its other
values to what that file carries. A JSONL file whose lines name no media is no list of files.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from curation.errors import ProbeError
from curation.ingest.containers.named import named_entries, naming_columns, why_absent
from curation.ingest.containers.reader import MAX_ENTRIES, Budget, Container, EntryColumns, Inventory
from curation.ingest.locator import printable
from curation.ingest.metadata import MAX_SIDECAR_BYTES, encoding_of, kept
from curation.records import Source

_CSV = "metadata.csv"
_JSONL = (".jsonl", ".ndjson")
_NUM_LOOKED_AT = 100
"""Lines that decide whether a file is a list of files."""
_BEAT_EVERY = 1000
_BAD_LINE = "line of a list that can't be read"

_Row = tuple[int, dict[str, Any] | None]
"""Number of a line, the first being 1, and its values; None if it can't be read."""


class ManifestReader:
    """Reads lists of files."""

    scheme = "lines"
    suffixes = frozenset({".csv", *_JSONL})

    def takes(self, key: str) -> bool:
        name = posixpath.basename(key).lower()
        return name == _CSV or name.endswith(_JSONL)

    def list(self, container: Container, on_progress: Callable[[], None]) -> Inventory:
        with container.storage.open(container.item.key) as file:
            encoding = encoding_of(file.read(4))
            file.seek(0)
            is_csv = container.item.key.lower().endswith(".csv")
            text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="" if is_csv else None)
            rows = _csv_rows(text) if is_csv else _json_rows(text)
            return _inventory(rows, Budget(container.item.size_bytes), on_progress)

    def opened(self, source: Source) -> AbstractContextManager[Path]:
        # A line whose file is there is a source by that file's name; this is another one.
        raise ProbeError(why_absent(source.metadata))


def _inventory(rows: Iterator[_Row], budget: Budget, on_progress: Callable[[], None]) -> Inventory:
    entries = EntryColumns()
    left_out: Counter[str] = Counter()
    error = None
    try:
        first = list(islice(rows, _NUM_LOOKED_AT))
        names = _names(first)
        if not names:
            return Inventory(num_ignored=1)
        for number, values in chain(first, rows):
            if number % _BEAT_EVERY == 0:
                on_progress()
            if values is None:
                left_out[_BAD_LINE] += 1
                continue
            if entries.num_entries >= MAX_ENTRIES:
                error = f"a list of more than {MAX_ENTRIES} files is not read to its end: split it"
                break
            entries.add(named_entries(values, names, number, lambda others: budget.allowed(kept(others))))
    except (csv.Error, UnicodeError, OSError) as problem:
        error = f"damaged after {entries.num_entries} files: {printable(str(problem))}"
    return Inventory(entries.table(), 0, left_out, error=error)


def _names(rows: list[_Row]) -> tuple[str, ...]:
    """The columns that name files."""
    firsts: dict[str, Any] = {}
    for _, values in rows:
        for name, value in (values or {}).items():
            if value and name not in firsts:
                firsts[name] = value
    return naming_columns(firsts, firsts.get)


def _json_rows(text: IO[str]) -> Iterator[_Row]:
    for number, line in enumerate(_lines(text), start=1):
        if line.strip():
            yield number, _json_object(line)


def _lines(text: IO[str]) -> Iterator[str]:
    """The lines of a text; of one that is too long to be about one picture, only the beginning."""
    while line := text.readline(MAX_SIDECAR_BYTES):
        yield line
        while len(line) == MAX_SIDECAR_BYTES and not line.endswith("\n"):
            line = text.readline(MAX_SIDECAR_BYTES)


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _csv_rows(text: IO[str]) -> Iterator[_Row]:
    reader = csv.DictReader(text, restkey="")
    for values in reader:
        has_too_many = "" in values  # a comma in a caption without quotes, and what follows
        yield reader.line_num, None if has_too_many else {name: cell for name, cell in values.items() if cell}
