"""Which samples end otherwise in one output, or under one setting, than in another, and why.

    found = compare(before, after)
    for table in found.changed(): ...

A clip counts once, whatever windows it is captioned in. Samples are found again by their id, whatever units
they are in: both sides are sorted into files by id, as many as are needed to hold one of each side in memory,
and each pair of files is joined.
"""

from __future__ import annotations

import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.ledger.columns import NONE, OUTCOMES, Verdicts
from curation.ledger.verdict_group import VerdictGroup
from curation.ledger.verdicts import verdict_groups
from curation.whatif.sides import ComparedSide

NUM_FILES = 64
"""Files that each side is sorted into."""
EXAMPLES_EACH = 3
"""Samples of each change that are shown."""
ABSENT = "absent"
"""The outcome of what is in one side alone, on the other."""

_KNOWN = pa.schema(
    [
        ("sample_id", pa.string()),
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("step", pa.string()),
    ]
)
CHANGED = pa.schema(
    [
        ("sample_id", pa.string()),
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        *(
            (f"{name}_{when}", pa.string())
            for when in ("before", "after")
            for name in ("outcome", "reason", "step")
        ),
    ]
)
"""A row per sample, or per source without samples, that ends otherwise. `step` is where it ended, or what
it waits for."""


@dataclass(frozen=True)
class OutcomeMove:
    """How samples end before and after, such as ("rejected by text_coverage_above_max", "kept")."""

    before: str
    after: str


@dataclass
class Comparison:
    """What was found so far; complete when `changed` has been gone through.

    Attributes:
        outcomes: (outcome before, outcome after) -> samples, the unchanged ones too.
        changes: Change -> samples.
        examples: Change -> the first samples, as URI and span.
        num_windows: Captioned windows before and after, which a summary counts in place of their clips.
    """

    before: ComparedSide
    after: ComparedSide
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    changes: Counter[OutcomeMove] = field(default_factory=Counter)
    examples: dict[OutcomeMove, list[str]] = field(default_factory=dict)
    num_windows: tuple[int, int] = (0, 0)

    def changed(self) -> Iterator[pa.Table]:
        """The samples that end otherwise, as `CHANGED`, in no order that means anything."""
        with tempfile.TemporaryDirectory(dir=self.before.pipeline.config.run.scratch) as folder:
            before, after = (_SortedSide(Path(folder) / name, side) for name, side in self._sides())
            self.num_windows = before.num_windows, after.num_windows
            for number in range(NUM_FILES):
                joined = _join(before.read(number), after.read(number))
                yield self._count(joined)

    def _sides(self) -> tuple[tuple[str, ComparedSide], tuple[str, ComparedSide]]:
        return ("before", self.before), ("after", self.after)

    def _count(self, joined: pa.Table) -> pa.Table:
        """Count samples; the rows of those that end otherwise."""
        pairs = [joined[f"outcome_{when}"] for when in ("before", "after")]
        numbers = (
            pa.table(pairs, ["before", "after"]).group_by(["before", "after"]).aggregate([([], "count_all")])
        )
        for row in numbers.to_pylist():
            self.outcomes[row["before"], row["after"]] += row["count_all"]
        is_same = pc.equal(*pairs)
        for name in ("reason", "step"):
            one, other = (joined[f"{name}_{when}"].fill_null("") for when in ("before", "after"))
            is_same = pc.and_(is_same, pc.equal(one, other))
        changed = joined.filter(pc.invert(is_same))
        self._note(changed)
        return changed

    def _note(self, changed: pa.Table) -> None:
        names = [f"{name}_{when}" for when in ("before", "after") for name in ("outcome", "reason", "step")]
        places = pa.array(np.arange(changed.num_rows))
        kinds = changed.select(names).append_column("place", places).group_by(names)
        for row in kinds.aggregate([("place", "count"), ("place", "min")]).to_pylist():
            change = OutcomeMove(*(_said(row, when) for when in ("before", "after")))
            self.changes[change] += row["place_count"]
            shown = self.examples.setdefault(change, [])
            if len(shown) < EXAMPLES_EACH:
                mine = _alike(changed, row, names)[: EXAMPLES_EACH - len(shown)]
                shown += [_named(found) for found in mine.to_pylist()]


def _said(row: dict[str, str | None], when: str) -> str:
    """An outcome with its reason, for people."""
    outcome, reason, step = (row[f"{name}_{when}"] for name in ("outcome", "reason", "step"))
    if outcome == "pending" and step:
        return f"pending, waits for {step}"
    return f"{outcome} by {reason}" if reason else str(outcome)


def _alike(changed: pa.Table, row: dict[str, str | None], names: list[str]) -> pa.Table:
    """The rows that hold what `row` does."""
    is_alike = np.ones(changed.num_rows, np.bool_)
    for name in names:
        is_alike &= np.asarray(pc.equal(changed[name].fill_null(""), row[name] or ""))
    return changed.filter(pa.array(is_alike))


def _named(row: dict[str, object]) -> str:
    span = f" {row['start_s']:.3f}-{row['end_s']:.3f} s" if row["end_s"] else ""
    return f"{row['uri']}{span}"


class _SortedSide:
    """One side's samples in files by id.

    Attributes:
        num_windows: Windows of long kept clips.
    """

    def __init__(self, folder: Path, side: ComparedSide) -> None:
        folder.mkdir()
        self._folder = folder
        self.num_windows = 0
        writers = [pa.ipc.new_file(str(self._path(number)), _KNOWN) for number in range(NUM_FILES)]
        groups = verdict_groups(side.ledger, side.pipeline, source_columns=("uri",))
        for group in groups:
            self.num_windows += sum(int(leaves.is_window.sum()) for leaves in group.leaves.values())
            table = _samples_of(group)
            file_of = _files_of(table["sample_id"])
            for number in np.unique(file_of):
                writers[number].write_table(table.filter(pa.array(file_of == number)))
        for writer in writers:
            writer.close()

    def read(self, number: int) -> pa.Table:
        """The samples of one file."""
        with pa.memory_map(str(self._path(number))) as file:
            return pa.ipc.open_file(file).read_all()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:03}.arrow"


def _files_of(ids: pa.ChunkedArray) -> NDArray[np.int64]:
    """The file of each id, by its first two digits; of what is no id of this project, any."""
    first = pc.utf8_slice_codeunits(ids, 0, 2)
    codes = first.combine_chunks().dictionary_encode()
    texts = codes.dictionary.to_pylist()
    files = np.array([zlib.crc32(text.encode()) % NUM_FILES for text in texts], np.int64)
    found: NDArray[np.int64] = files[np.asarray(codes.indices)]
    return found


def _samples_of(group: VerdictGroup) -> pa.Table:
    """A row per sample, and per source that has none, as `_KNOWN`."""
    has_samples = np.zeros(group.sources.num_rows, np.bool_)
    parts = []
    for kind, samples in group.samples.items():
        has_samples[samples.source] = True
        parts.append(
            _table(
                group,
                samples.source,
                samples.sample_id,
                samples.start_s,
                samples.end_s,
                group.of_samples(kind),
            )
        )
    bare = np.flatnonzero(~has_samples)
    nothing = np.zeros(len(bare))
    ids = group.sources["source_id"].combine_chunks().take(pa.array(bare))
    return pa.concat_tables([*parts, _table(group, bare, ids, nothing, nothing, group.of_sources.take(bare))])


def _table(
    group: VerdictGroup,
    source: NDArray[np.int64],
    ids: pa.Array,
    start_s: NDArray[np.float64],
    end_s: NDArray[np.float64],
    verdicts: Verdicts,
) -> pa.Table:
    outcomes = pa.array([str(outcome) for outcome in OUTCOMES])
    keys = pa.array([step.key for step in group.steps])
    step = np.where(verdicts.step != NONE, verdicts.step, verdicts.needs)
    columns = [
        ids,
        group.sources["uri"].combine_chunks().take(pa.array(source)),
        pa.array(start_s),
        pa.array(end_s),
        outcomes.take(pa.array(verdicts.outcome)),
        group.labels.column(verdicts.reason).cast(pa.string()),
        keys.take(pa.array(step, mask=step == NONE)),
    ]
    return pa.table(columns, schema=_KNOWN)


def _join(before: pa.Table, after: pa.Table) -> pa.Table:
    """A row per sample of either side, as `CHANGED`; what one side lacks is `absent` there."""
    ids = pa.concat_arrays(
        [pc.unique(pa.concat_arrays([part["sample_id"].combine_chunks() for part in (before, after)]))]
    )
    rows = [
        part.take(pc.index_in(ids, value_set=part["sample_id"].combine_chunks())) for part in (before, after)
    ]
    shared = [pc.coalesce(rows[0][name], rows[1][name]) for name in ("uri", "start_s", "end_s")]
    found = [ids, *shared]
    for part in rows:
        found += [part["outcome"].fill_null(ABSENT), part["reason"], part["step"]]
    return pa.table(found, schema=CHANGED)
