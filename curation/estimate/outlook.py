"""What a run would do now, from the listing and the ledger: no medium is opened, and nothing is written.

    outlook = look_ahead(config, names_done=True)
    for step in outlook.steps:
        print(step.key, step.waits, step.at_most)

It is the run's own subtraction: the same listing, the same matching with the ledger, the same verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.config import Config
from curation.execution.dataset_wide import bind
from curation.execution.plan import Task, plan_probes
from curation.execution.record.changes import step_reasons
from curation.execution.record.run_record import description, read_run
from curation.execution.takedown.retraction import check_none_pending
from curation.ingest.containers.index import ListingIndex
from curation.ingest.inputs import find_inputs
from curation.ingest.listed import ListedSources
from curation.ingest.listing import Listing, list_inputs
from curation.ledger import Ledger
from curation.ledger.absent import absent_sources
from curation.ledger.columns import NONE, PENDING
from curation.ledger.present import PRESENT, listing_to_bytes, match_names
from curation.ledger.selection import Selection
from curation.ledger.unit_state import NO_RECOMPUTE, RecomputePolicy, branch_steps
from curation.ledger.verdict_group import SampleGroup, VerdictGroup
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline, build_pipeline
from curation.pipeline.rules import Step, steps_of
from curation.records import Source, SourceKind
from curation.registry import SHARDS, load
from curation.storage import Storage, open_storage
from curation.storage.access import check_input
from curation.storage.readonly import ReadOnlyStorage

ShardsOutlook = Literal["none", "current", "anew", "open"]
"""No shards are asked for; they are there as they should be; they would be written anew; what is measured
decides."""

_FILES = pa.schema([("uri", pa.string()), ("etag", pa.string())])


@dataclass
class StepOutlook:
    """What one step would measure.

    Attributes:
        key: Key of the step.
        counts: What it is given: sources of this kind for a splitter, else samples.
        is_dataset_wide: Whether it measures all samples together, once everything before it is through.
        present: Samples that it has measured, with the present settings, models and versions.
        waits: Samples that it would measure, as far as they are known now.
        at_most: The most that it may come to; None: unknown until what stands before it is measured.
        why_anew: What of the step is another thing than at the last run, so that its rows do not count any
            more, such as `version 1 -> 2 of the stage`.
        models: Names of its models.
    """

    key: str
    counts: str
    is_dataset_wide: bool = False
    present: int = 0
    waits: int = 0
    at_most: int | None = 0
    why_anew: str = ""
    models: tuple[str, ...] = ()

    def add(self, waits: int, at_most: int | None) -> None:
        """Count more of them."""
        self.waits += waits
        self.at_most = None if self.at_most is None or at_most is None else self.at_most + at_most

    @property
    def is_open(self) -> bool:
        """Whether it may have something to measure."""
        return self.at_most is None or self.at_most > 0


@dataclass(frozen=True)
class DoneSources:
    """The sources of the ledger for which not all is to be done, as columns.

    Attributes:
        done: `uri` and `etag` of those for which nothing is to be done.
        filtered: Of those that only captions and tokens are still missing of.
    """

    done: pa.Table = field(default_factory=_FILES.empty_table)
    filtered: pa.Table = field(default_factory=_FILES.empty_table)

    def of(self, listed: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Bools [N] of listed sources: whether nothing is to be done, and whether a filter must see it."""
        is_done, is_filtered = _among(listed, self.done), _among(listed, self.filtered)
        return is_done, ~is_done & ~is_filtered


def _among(listed: pa.Table, files: pa.Table) -> NDArray[np.bool_]:
    """Whether each listed file is one of `files`, in the same version."""
    if not files.num_rows:
        return np.zeros(listed.num_rows, np.bool_)
    places = pc.index_in(match_names(listed["uri"]), value_set=match_names(files["uri"]))
    found: NDArray[np.bool_] = np.asarray(
        pc.equal(listed["etag"], files["etag"].take(places)).fill_null(False)
    )
    return found


@dataclass(frozen=True)
class Outlook:
    """What a run would do.

    Attributes:
        pipeline: The pipeline, bound as the ledger stands.
        listing: What is in the inputs now, without what is in `unlisted`.
        unlisted: Containers that would be listed first.
        fresh: Kind of source -> sources that would be read for the first time.
        changed: Sources that would be read again, because they have another date or failed and are retried.
        renewed: Sources that carry other metadata.
        gone: Sources of the ledger that are no longer in the inputs.
        steps: In the order of the work.
        shards: What would become of the shards.
        done: The sources for which not all is to be done, where that was asked for.
    """

    pipeline: Pipeline
    listing: Listing
    unlisted: Sequence[Source]
    fresh: Mapping[str, int]
    changed: int
    renewed: int
    gone: int
    steps: Sequence[StepOutlook]
    shards: ShardsOutlook
    done: DoneSources = field(default_factory=DoneSources)

    @property
    def measures_nothing(self) -> bool:
        """Whether a run would measure nothing."""
        reads = self.changed + self.renewed + len(self.unlisted) + sum(self.fresh.values())
        return not reads and not any(step.is_open for step in self.steps)


def look_ahead(
    config: Config,
    *,
    limit: int | None = None,
    recompute: RecomputePolicy = NO_RECOMPUTE,
    names_done: bool = False,
) -> Outlook:
    """What a run with these options would do; with `names_done`, also which sources are done.

    Raises:
        ConfigError: as a run would; an input is missing, or a model is not the one that was used before.
        EnvironmentFault: a model can't be found.
        StorageError: an input or the output can't be read.
    """
    storage = open_storage(config.general.output)
    check_none_pending(storage)
    for root in config.general.input:
        check_input(root)
    record = read_run(storage)
    index = ListingIndex(ReadOnlyStorage(storage), may_list=False)
    listing = list_inputs(config, find_inputs(config), index)
    ledger = Ledger(ReadOnlyStorage(storage, {PRESENT: listing_to_bytes(listing.sources)}))
    pipeline = bind(build_pipeline(config, record.get("models")), ledger)
    probes = plan_probes(ledger, listing, config, limit=limit, recompute=recompute)
    reasons = step_reasons(record, description(pipeline, None))
    counter = _Counter(pipeline, reasons, has_unlisted=bool(index.unlisted))
    counter.add_probes(probes)
    absent = absent_sources(ledger)
    for group in verdict_groups(
        ledger, pipeline, recompute=recompute, source_columns=_FILES.names, absent=absent
    ):
        counter.add(group)
        if names_done:
            counter.add_done(group)
    found = Outlook(
        pipeline,
        listing,
        index.unlisted,
        counter.fresh,
        sum(len(task.sources) for task in probes if task.rewrites),
        sum(len(task.renewed) for task in probes),
        absent.gone_sources.num_rows,
        counter.finish(),
        "none",
        counter.done_sources(),
    )
    return replace(found, shards=_shards(config, storage, ledger, found))


def _shards(config: Config, storage: Storage, ledger: Ledger, found: Outlook) -> ShardsOutlook:
    """What would become of the shards."""
    if config.shards is None:
        return "none"
    writer: Any = load(SHARDS)(config.shards)
    writer.check()
    if not found.measures_nothing:
        return "open"
    samples = Selection(ledger, found.pipeline)
    is_current = writer.is_current(storage, config.shards_folder, samples)
    return "current" if is_current else "anew"


class _Counter:
    """Counts what each step would measure, from what is to be read and from groups of verdicts."""

    def __init__(
        self, pipeline: Pipeline, reasons: Mapping[str, Sequence[str]], *, has_unlisted: bool
    ) -> None:
        """`reasons` say why steps measure anew; `has_unlisted`: more sources may turn up."""
        self._pipeline = pipeline
        self._has_unlisted = has_unlisted
        self._enrich = list(steps_of(pipeline.enrich))
        self.fresh: dict[str, int] = {}
        self._done: list[pa.Table] = []
        self._filtered: list[pa.Table] = []
        splitters = {branch.splitter.key for branch in pipeline.branches.values() if branch.splitter}
        self._steps: dict[str, StepOutlook] = {}
        for step in pipeline.steps():
            self._steps[step.key] = StepOutlook(
                step.key,
                "videos" if step.key in splitters else "samples",
                step.is_dataset_wide,
                why_anew=", ".join(reasons.get(step.key, ())),
                models=tuple(model.name for model in pipeline.models if model.step == step.key),
            )

    def add_probes(self, probes: Sequence[Task]) -> None:
        """Count the sources that are to be read: the first step measures them, the others perhaps."""
        for task in probes:
            for kind, number in _kinds(task).items():
                if not task.rewrites:
                    self.fresh[kind] = self.fresh.get(kind, 0) + number
                if kind in self._pipeline.branches:
                    self._add_unread(kind, 0 if task.rewrites else number, number)

    def _add_unread(self, kind: SourceKind, fresh: int, number: int) -> None:
        """`number` sources that will be read, of which `fresh` are surely measured by the first step."""
        first, *others = self._chain(kind)
        self._steps[first.key].add(fresh, number)
        for step in others:
            self._steps[step.key].add(0, number if kind == "image" else None)

    def _chain(self, kind: SourceKind) -> list[Step]:
        """All steps that sources of a kind go through."""
        return [*branch_steps(self._pipeline.branches[kind]), *self._enrich]

    def add(self, group: VerdictGroup) -> None:
        """Count what is known of a group of units."""
        codes = {step.key: code for code, step in enumerate(group.steps)}
        for kind, samples in group.samples.items():
            steps = branch_steps(samples.branch)
            of_kind = pc.equal(group.sources["kind"], kind).to_numpy(zero_copy_only=False)
            is_pending = of_kind & (group.of_sources.outcome == PENDING)
            is_unsplit = is_pending.copy()
            is_unsplit[samples.source] = False
            if samples.branch.splitter is not None and is_unsplit.any():
                self._add_unread(kind, int(is_unsplit.sum()), int(is_unsplit.sum()))
            self._add_samples(samples, steps, codes)
            self._add_leaves(group, kind, codes)

    def add_done(self, group: VerdictGroup) -> None:
        """Note the sources in which nothing waits, and those that wait for captions and tokens alone."""
        keys = {step.key for step in self._enrich}
        enrich = [code for code, step in enumerate(group.steps) if step.key in keys]
        is_open = np.zeros(group.sources.num_rows, np.bool_)
        for_filters = np.zeros(group.sources.num_rows, np.bool_)
        places, needs = group.needs()
        is_open[places[needs != NONE]] = True
        for_filters[places[(needs != NONE) & ~np.isin(needs, enrich)]] = True
        files = group.sources.select(_FILES.names).cast(_FILES)
        self._done.append(files.filter(pa.array(~is_open)))
        self._filtered.append(files.filter(pa.array(is_open & ~for_filters)))

    def done_sources(self) -> DoneSources:
        """The sources for which not all is to be done."""
        empty = _FILES.empty_table()
        return DoneSources(pa.concat_tables([empty, *self._done]), pa.concat_tables([empty, *self._filtered]))

    def _add_samples(self, samples: SampleGroup, steps: Sequence[Step], codes: Mapping[str, int]) -> None:
        """The filters: what waits for them, and what may come to them from the filters before."""
        needs = samples.verdicts.needs
        is_before = np.zeros(len(needs), np.bool_)
        for step in steps:
            is_present = samples.evaluator.measured[step.key].present
            self._add(step, is_present, needs == codes[step.key], is_before)
            is_before |= needs == codes[step.key]

    def _add_leaves(self, group: VerdictGroup, kind: SourceKind, codes: Mapping[str, int]) -> None:
        """Captions and tokens; how many windows a clip has is known once it is kept."""
        leaves = group.leaves[kind]
        needs = leaves.verdicts.needs
        filters = [codes[step.key] for step in branch_steps(self._pipeline.branches[kind])]
        is_filtered = np.isin(needs, filters)
        has_windows = kind == "video" and bool(is_filtered.any())
        is_before = is_filtered.copy()
        for step in self._enrich:
            is_present = leaves.evaluator.measured[step.key].present
            self._add(step, is_present, needs == codes[step.key], is_before)
            if has_windows:
                self._steps[step.key].add(0, None)
            is_before |= needs == codes[step.key]

    def _add(
        self,
        step: Step,
        is_present: NDArray[np.bool_],
        waits: NDArray[np.bool_],
        is_before: NDArray[np.bool_],
    ) -> None:
        found = self._steps[step.key]
        found.present += int(is_present.sum())
        found.add(int(waits.sum()), int((waits | (is_before & ~is_present)).sum()))

    def finish(self) -> list[StepOutlook]:
        """The steps, in the order of the work."""
        for branch in self._pipeline.branches.values():
            self._settle([*branch_steps(branch), *self._enrich])
        return list(self._steps.values())

    def _settle(self, chain: Sequence[Step]) -> None:
        """A dataset-wide step waits until all before it are through, and then measures anew."""
        is_open = self._has_unlisted
        for step in chain:
            found = self._steps[step.key]
            if is_open and (step.is_dataset_wide or self._has_unlisted):
                found.at_most = None
                found.waits = 0 if step.is_dataset_wide else found.waits
            is_open = is_open or found.is_open
        if self._has_unlisted and chain:
            self._steps[chain[0].key].at_most = None


def _kinds(task: Task) -> dict[SourceKind, int]:
    """Kind -> sources that a probing task reads; what lies beside them is not opened."""
    if not isinstance(task.sources, ListedSources):
        return {}
    counts = pc.value_counts(task.sources.table["kind"])
    return {count["values"]: count["counts"] for count in counts.to_pylist()}
