"""Which rows of the ledger are of which source, whatever configuration measured them.

    lineage = Lineage(ledger, source_ids, windows)
    for step in lineage.steps:
        ledger.take_out(step, lineage.units, lineage.stays)

Most stages know a sample by its id alone. Whose it is follows from the sources, of which the ids of
images are made; from the rows of splitters, which name their source; and from those of windows, which name
their clip. So these go last, and a retraction that was interrupted finds the rest by them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from curation.config import Config
from curation.ledger import Ledger
from curation.records import Sample, image_ids

Windows = Callable[[Sample], Sequence[Sample]]
"""The parts of a sample that are measured one by one, the sample among them or not."""
_TELLING = ("sample_id", "source_id", "parent_id", "start_s", "end_s")
NO_SOURCE = "of no known source"


class Lineage:
    """The units that hold some sources, and whose each of their rows is.

    Attributes:
        units: Their numbers.
        emptied: Those that hold nothing else.
        steps: Name and fingerprint of every stage, those first whose rows tell least.
    """

    def __init__(self, ledger: Ledger, source_ids: Collection[str], windows: Windows) -> None:
        self._ledger, self._windows = ledger, windows
        self._gone = frozenset(source_ids)
        self._owner: dict[int, dict[str, str]] = {}
        self._sweeps: set[int] = set()
        self.emptied: set[int] = set()
        self._read_sources()
        self.units = sorted(self._owner)
        self.steps = self._read_steps() if self.units else []

    def _read_sources(self) -> None:
        wanted = pa.array(sorted(self._gone), pa.string())
        for unit, table in self._ledger.scan_sources(("source_id", "kind"), self._ledger.units()):
            is_gone = pc.is_in(table["source_id"], value_set=wanted)
            if not pc.any(is_gone).as_py():
                continue
            ids = table["source_id"].to_pylist()
            self._owner[unit] = {
                **dict(zip(ids, ids, strict=True)),
                **dict(zip(image_ids(ids), ids, strict=True)),
            }
            if pc.all(is_gone).as_py():
                self.emptied.add(unit)
            elif pc.any(pc.equal(table["kind"].filter(is_gone), "video")).as_py():
                self._sweeps.add(unit)

    def _read_steps(self) -> list[tuple[str, str]]:
        """All stages in the order in which they can go."""
        ranks: Counter[tuple[str, str]] = Counter()
        children: list[tuple[int, str, str]] = []
        for step in sorted(self._ledger.known_steps):
            for unit, rows in self._ledger.snapshot(*step).scan(self.units, _TELLING):
                rank = 2 * ("source_id" in rows.column_names) + ("parent_id" in rows.column_names)
                ranks[step] = max(ranks[step], rank)
                if "source_id" in rows.column_names:
                    self._add_clips(unit, rows)
                if "parent_id" in rows.column_names:
                    children += _children(unit, rows)
        for unit, sample_id, parent_id in children:
            owner = self._owner[unit].get(parent_id)
            if owner is not None:
                self._owner[unit][sample_id] = owner
        return sorted(ranks, key=lambda step: (ranks[step], step))

    def _add_clips(self, unit: int, rows: pa.Table) -> None:
        owner = self._owner[unit]
        for row in rows.to_pylist():
            if row["source_id"] is None:
                continue
            owner[row["sample_id"]] = row["source_id"]
            if row.get("start_s") is not None and row.get("end_s") is not None:
                clip = Sample.of_span(row["source_id"], row["start_s"], row["end_s"])
                owner.update((window.sample_id, row["source_id"]) for window in self._windows(clip))

    @property
    def ids(self) -> set[str]:
        """Ids of the sources that go, and of all samples that were ever measured of them."""
        owners = self._owner.values()
        return {name for owner in owners for name, source_id in owner.items() if source_id in self._gone}

    def stays(self, unit: int, table: pa.Table) -> pa.Table:
        """The rows of a stage in a unit that stay.

        Beside the clips of a video that goes, nothing stays of which it is not known whose it is: it may be
        of a window of one of them, which a stage that failed did not say.
        """
        owners = self._owners(unit, table)
        sweeps = unit in self._sweeps or unit in self.emptied
        stays = [owner not in self._gone and not (owner is None and sweeps) for owner in owners]
        return table.filter(pa.array(stays, pa.bool_()))

    def source_stays(self, unit: int, table: pa.Table) -> pa.Table:
        """The sources of a unit that stay."""
        stays = [source_id not in self._gone for source_id in table["source_id"].to_pylist()]
        return table.filter(pa.array(stays, pa.bool_()))

    def counts(self) -> dict[str, int]:
        """How many rows go: of the sources, of each stage with all its settings, and those of nobody."""
        found: Counter[str] = Counter()
        for unit, table in self._ledger.scan_sources(("source_id",), self.units):
            found["sources"] += table.num_rows - self.source_stays(unit, table).num_rows
        for step in sorted(self.steps):
            for unit, rows in self._ledger.snapshot(*step).scan(self.units, ("sample_id",)):
                num_gone = rows.num_rows - self.stays(unit, rows).num_rows
                num_mine = sum(owner in self._gone for owner in self._owners(unit, rows))
                found[step[0]] += num_mine
                found[NO_SOURCE] += num_gone - num_mine
        return {name: number for name, number in found.items() if number}

    def _owners(self, unit: int, table: pa.Table) -> list[str | None]:
        owner = self._owner[unit]
        return [owner.get(sample_id) for sample_id in table["sample_id"].to_pylist()]


def _children(unit: int, rows: pa.Table) -> Iterator[tuple[int, str, str]]:
    pairs = zip(rows["sample_id"].to_pylist(), rows["parent_id"].to_pylist(), strict=True)
    return ((unit, sample_id, parent_id) for sample_id, parent_id in pairs if parent_id is not None)


def windows_of(config: Config) -> Windows:
    """What a configuration measures of a clip by itself; no model is looked for."""
    stages = [choice.build() for choice in config.additions.values()]

    def windows(sample: Sample) -> list[Sample]:
        samples = [sample]
        for stage in stages:
            samples = [window for part in samples for window in stage.expand(part)]
        return samples

    return windows
