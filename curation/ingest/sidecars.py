"""NAME.txt and NAME.json beside a file: which ones a listing finds, by column, and what they say.

    etags = Sidecars(names, suffixes, ...).etags(["in/a.jpg"])    # when listing; no sidecar is opened
    values = read_sidecars("in/a.jpg", etags[0])                  # by whoever works on in/a.jpg

The etag of what lies beside a file is a line per sidecar: its suffix as it is spelled, and its own etag.
"""

from __future__ import annotations

import posixpath

import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import ProbeError
from curation.errors.isolation import isolated
from curation.ingest.locator import Locator, printable
from curation.ingest.metadata import MAX_SIDECAR_BYTES, PROBLEM, SIDECAR_SUFFIXES, from_sidecar, from_sidecars
from curation.ingest.reach import blaming_the_file
from curation.records import MetadataValue


class Sidecars:
    """The sidecars among the files of a folder."""

    def __init__(self, names: pa.Array, suffixes: pa.Array, etags: pa.Array, sizes_bytes: pa.Array) -> None:
        """All files of the folder, sorted by name; `suffixes` are in lower case.

        Of NAME.txt and NAME.TXT the one in lower case counts, which comes last.
        """
        self._rows: dict[str, pa.Array] = {}
        self._stems: dict[str, pa.Array] = {}
        self._labels: dict[str, pa.Array] = {}
        for suffix in SIDECAR_SUFFIXES:
            rows = pc.indices_nonzero(pc.equal(suffixes, suffix))[::-1]
            own = names.take(rows)
            spelled = pc.utf8_slice_codeunits(own, -len(suffix))
            is_small = pc.less_equal(sizes_bytes.take(rows), MAX_SIDECAR_BYTES)
            label = pc.binary_join_element_wise(spelled, etags.take(rows), " ")
            self._rows[suffix] = rows
            self._stems[suffix] = stems_of(own)
            self._labels[suffix] = pc.if_else(is_small, label, None)

        self._are_any = any(map(len, self._rows.values()))

    def etags(self, names: pa.Array) -> pa.Array:
        """Of what lies beside each of these files; null where nothing does."""
        found = pa.nulls(len(names), pa.string())
        if not self._are_any:
            return found
        stems = stems_of(names)
        for suffix in SIDECAR_SUFFIXES:
            line = self._labels[suffix].take(pc.index_in(stems, value_set=self._stems[suffix]))
            found = pc.coalesce(pc.binary_join_element_wise(found, line, "\n"), found, line)
        return found

    def rows_beside(self, names: pa.Array) -> pa.Array:
        """The rows of the sidecars that lie beside these files."""
        if not self._are_any:
            return pa.array([], pa.uint64())
        stems = stems_of(names)
        found = []
        for suffix in SIDECAR_SUFFIXES:
            places = pc.unique(pc.index_in(stems, value_set=self._stems[suffix]).drop_null())
            found.append(self._rows[suffix].take(places).filter(self._labels[suffix].take(places).is_valid()))
        return pa.concat_arrays(found)


def stems_of(names: pa.Array) -> pa.Array:
    """Names without their suffixes."""
    return pc.replace_substring_regex(names, r"\.[^./]*$", "")


def read_sidecars(path: str, etag: str) -> dict[str, MetadataValue]:
    """What lies beside a file says; `etag` names the sidecars.

    One that is not there any more says nothing; one that can't be read is named under `carried_error`.

    Raises:
        StorageError, EnvironmentFault: the trouble is not this file's.
    """
    stem = posixpath.splitext(path)[0]
    suffixes = [line.partition(" ")[0] for line in etag.splitlines() if line.startswith(".")]
    return from_sidecars({suffix.lower(): _said(f"{stem}{suffix}", suffix.lower()) for suffix in suffixes})


def _said(path: str, suffix: str) -> dict[str, MetadataValue]:
    storage, key = Locator("", path).open_storage()
    try:
        with isolated(ProbeError), blaming_the_file():
            data = storage.read(key)
            return {} if data is None else from_sidecar(suffix, data)
    except ProbeError as error:
        return {PROBLEM: printable(f"the {suffix} file beside it can't be read: {error}")}
