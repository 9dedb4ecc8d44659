"""A run, from the configuration to the report. `run` is the story; read it from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from curation.config import Config
from curation.dataset_stage import Spread
from curation.errors import ConfigError
from curation.execution.cluster.joining.connection import check_cluster, check_temp_folder, starts_here
from curation.execution.cluster.joining.jobs import check_output_lasts
from curation.execution.cluster.joining.shared import NUM_SAMPLES, SharedFolders
from curation.execution.dataset_wide import bind, filters_behind
from curation.execution.driver.pool import Pool
from curation.execution.passes import Passes
from curation.execution.pictures import keep_pictures, side_by_side
from curation.execution.plan import filters_of_new, plan_listing, plan_probes
from curation.execution.progress import ProgressListener, shown
from curation.execution.record.recorder import Recorder, record_now
from curation.execution.record.run_record import RUN, read_run, write_if_changed
from curation.execution.standing import Standing
from curation.execution.takedown.retraction import check_none_pending, copies_of_retracted, finish_pending
from curation.execution.worker.metrics import Metrics
from curation.ingest.inputs import FoundFolder, find_inputs, unlisted_containers
from curation.ingest.leftovers import Leftovers, some_names
from curation.ingest.listing import Listing, list_inputs
from curation.ledger import Ledger
from curation.ledger.absent import absent_sources, num_bad_metadata
from curation.ledger.present import come_and_gone, remember_listing
from curation.ledger.selection import Selection, exported_columns
from curation.ledger.unit_state import NO_RECOMPUTE, PROBE, RecomputePolicy
from curation.media.decoder import check_decoder
from curation.pipeline import Pipeline, Readiness, build_pipeline
from curation.pipeline.decision import Decision
from curation.pipeline.models import Checklist
from curation.registry import SHARDS, load
from curation.report.cards.card import render_card, render_shards_croissant
from curation.report.page.page import render_page
from curation.report.summary.decided import decided_otherwise
from curation.report.summary.funnel import untrained_notice
from curation.report.summary.summary import Summary, summarize
from curation.storage import Storage, open_storage
from curation.storage.access import check_input, check_output
from curation.storage.retries import FIRST_CONTACT

REPORT = "report/index.html"


@dataclass(frozen=True)
class RunOptions:
    """What a run should do.

    Attributes:
        only: Keys of the steps that may be measured; None for all.
        recompute: Rows that count as missing.
        address: Ray cluster; None starts one on this machine.
        limit: Take up at most this many sources.
        choose: Picks the sources of the listing that count; the others might as well not be there.
        accept_new_models: Go on although a model is another one than the output was begun with.
        worker_logs: Show what workers print.
        command: The command line, without secrets, for run.json; None if there was none.
    """

    only: frozenset[str] | None = None
    recompute: RecomputePolicy = NO_RECOMPUTE
    address: str | None = None
    limit: int | None = None
    choose: Callable[[Listing], Listing] | None = None
    accept_new_models: bool = False
    worker_logs: bool = False
    command: str | None = None

    def __post_init__(self) -> None:
        """Check the limit.

        Raises:
            ConfigError: it would take up nothing, or leave out sources at the end.
        """
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit: at least one source is taken up, not {self.limit}")


@dataclass(frozen=True)
class Result:
    """Result of a run: the summary, the metrics of what it measured, and the paths of what it wrote."""

    pipeline: Pipeline
    summary: Summary
    metrics: Metrics
    paths: dict[str, str] = field(default_factory=dict)

    @property
    def did_work(self) -> bool:
        """Whether anything was measured."""
        return self.metrics.rows.total() > 0


def open_pipeline(config: Config) -> tuple[Pipeline, Ledger]:
    """The pipeline and the ledger of an existing output, to read from.

    Models that the output was measured with need not be there any more, and none are looked for.

    Raises:
        ConfigError: no run has been there, or another model is named wrongly.
        EnvironmentFault: another model can't be found.
        StorageError: the output can't be reached.
        LedgerError: a retraction is not finished there.
    """
    storage = open_storage(config.general.output)
    check_input(storage.root)
    check_none_pending(storage)
    ledger = Ledger(storage)
    if not read_run(storage) and not ledger.units():
        raise ConfigError(f"{storage.root} is no output of a run; `curation run` would make it one")
    return _pipeline_to_read(config, ledger), ledger


def _pipeline_to_read(config: Config, ledger: Ledger) -> Pipeline:
    """The pipeline by which an output is read; models are those that it was measured with."""
    recorded = read_run(ledger.storage).get("models")
    return bind(build_pipeline(config, recorded, as_recorded=True), ledger)


def open_for_work(config: Config, options: RunOptions) -> tuple[Pipeline, Ledger, Any]:
    """The pipeline, the ledger and the shard writer, once all that they need has been found.

    Raises:
        StorageError: an input or the output is in a bucket that can't be used.
        ConfigError: a model is not the one that the output was begun with, or is named wrongly.
        EnvironmentFault: something is missing on this machine; all of it is named.
    """
    with FIRST_CONTACT.limited():
        return _checked(config, options)


def _checked(config: Config, options: RunOptions) -> tuple[Pipeline, Ledger, Any]:
    try:
        check_output_lasts(config.general.output)
    except ConfigError as error:
        raise ConfigError(f"output: {error}") from error
    storage = open_storage(config.general.output)
    is_local = starts_here(options.address)
    checklist = Checklist()
    for root in config.general.input:
        checklist.attempt("input", partial(check_input, root))
    record = checklist.attempt("output", partial(_begun, storage)) or {}
    pipeline = build_pipeline(
        config,
        record.get("models"),
        accept_new_models=options.accept_new_models,
        readiness=Readiness(checklist, packages=is_local),
    )
    writer = load(SHARDS)(config.shards) if config.shards is not None else None
    if writer is not None:
        checklist.attempt("shards", partial(writer.check, exported_columns(pipeline)))
    if is_local:
        checklist.attempt("run", partial(check_decoder, config.run.decoder))
        checklist.attempt("Ray", check_temp_folder)
    checklist.finish()
    check_cluster(options.address)
    return pipeline, Ledger(storage), writer


def _begun(storage: Storage) -> dict[str, Any]:
    """What run.json says of an output that can be written to."""
    check_output(storage.root)
    return read_run(storage)


def run(config: Config, options: RunOptions, progress: ProgressListener) -> Result:
    """Measure what is missing, write shards and report, and check that the counts add up.

    Raises:
        CurationError: what no retry helps against; the ledger holds all that was committed before.
    """
    started = time.monotonic()
    pipeline, ledger, writer = open_for_work(config, options)
    found = find_inputs(config)
    shared = None if starts_here(options.address) else _shared_folders(ledger.storage, found)
    with ledger.storage.exclusive(progress.say):
        _finish_retraction(pipeline, ledger.storage, progress)
        with Pool(
            pipeline,
            ledger,
            options.address,
            progress,
            shared=shared,
            worker_logs=options.worker_logs,
        ) as pool:
            listing = _list_inputs(config, options, found, pool, progress)
            recorder = Recorder(ledger.storage, options.command)
            _begin_record(recorder, pipeline, ledger, listing, progress)

            standing = Standing(ledger, only=options.only, recompute=options.recompute)
            probes = plan_probes(
                ledger,
                listing,
                config,
                limit=options.limit,
                recompute=options.recompute,
                filters=filters_of_new(pipeline, standing.allowed(filters_behind(pipeline, None))),
            )
            passes = Passes(ledger, pool, standing, progress, recorder.working)
            pipeline = passes.measure(pipeline, probes)
            if probes:
                _record_bad_metadata(pipeline, ledger, listing.leftovers, recorder, progress)
                _warn_of_copies(ledger, progress)
            summary, written = standing.summary(pipeline), None
            # A single stage leaves later ones pending; shards made then would lose samples.
            if writer is not None and options.only is None:
                spread = shown(pool.spread, "shards", progress)
                written = _write_shards(writer, pipeline, ledger, spread)
            _render_pictures(pipeline, ledger, summary, pool)
        for line in decided_otherwise(ledger.storage, config):
            progress.say(line)
        progress.say("writing card and report")
        seconds = time.monotonic() - started
        record = recorder.end(pipeline, summary.outcome_totals(), passes.metrics, seconds)
        if passes.metrics.rows.total():
            for change in record["measured_again"]:
                progress.say(f"measured again: {change['text']}")
        result = _conclude(ledger, pipeline, summary, written, passes.metrics, record)
        if result.did_work and config.run.compact_files is not None:
            compact(pipeline, ledger, more_than=config.run.compact_files, whole=False)
        return result


def _list_inputs(
    config: Config,
    options: RunOptions,
    found: Sequence[FoundFolder],
    pool: Pool,
    progress: ProgressListener,
) -> Listing:
    """List what the run works on. Workers list containers, which may be damaged, or made to do damage."""
    retry_failed = options.recompute.counts_as_missing(PROBE, row_failed=True)
    containers = unlisted_containers(config, found, retry_failed=retry_failed)
    if containers:
        progress.begin("list", len(containers))
        pool.do(plan_listing(containers))
        progress.end()
    listing = list_inputs(config, found)
    return listing if options.choose is None else options.choose(listing)


def _begin_record(
    recorder: Recorder, pipeline: Pipeline, ledger: Ledger, listing: Listing, progress: ProgressListener
) -> None:
    """Begin run.json, and say what changed since the run before: sources that came and went, settings."""
    new_and_gone = come_and_gone(ledger.storage, listing.sources)
    remember_listing(ledger.storage, listing.sources)
    absent = absent_sources(ledger)
    listing.leftovers.num_bad_metadata = num_bad_metadata(ledger, absent)
    _announce(pipeline, ledger.storage, listing, absent.gone, progress)
    recorder.begin(pipeline, listing.leftovers.record(), new_and_gone)
    for line in recorder.steps_changed(ledger.known_steps):
        progress.say(f"to be measured again: {line}")


def _write_shards(writer: Any, pipeline: Pipeline, ledger: Ledger, spread: Spread) -> Any:
    """Write the shards of what is kept now; what the writer says of them."""
    config, samples = pipeline.config, Selection(ledger, pipeline)
    decided = Decision.of(config)
    return writer.write(ledger.storage, config.shards_folder, samples, spread, decided=decided)


def _render_pictures(pipeline: Pipeline, ledger: Ledger, summary: Summary, pool: Pool) -> None:
    """Keep the pictures of the samples that the report shows."""
    # On this machine alone the children that render need no tasks of Ray around them.
    spread = side_by_side if pool.is_local else pool.spread
    keep_pictures(ledger, pipeline, summary.gallery.without_poison(), spread)


def _finish_retraction(pipeline: Pipeline, storage: Storage, progress: ProgressListener) -> None:
    """Finish a retraction that was interrupted, so that nothing of it is worked on."""
    finished = finish_pending(storage, pipeline.windows)
    if finished is not None:
        progress.say(f"finished the retraction of {finished.when}, which had been interrupted")


def _shared_folders(output: Storage, found: Sequence[FoundFolder]) -> SharedFolders:
    """What all nodes of a cluster must see."""
    files = {
        folder.root: tuple(folder.path(key) for key in folder.some_keys(NUM_SAMPLES))
        for folder in found
        if open_storage(folder.root).is_local
    }
    return SharedFolders(output.root if output.is_local else None, files)


def compact(pipeline: Pipeline, ledger: Ledger, *, more_than: int = 1, whole: bool = True) -> int:
    """Merge the unit files of stages that have more than so many; how many files were replaced."""
    steps = [(step.name, step.fingerprint) for step in pipeline.steps() if step.is_bound]
    return ledger.compact(steps, more_than=more_than, whole=whole)


def _announce(
    pipeline: Pipeline,
    storage: Storage,
    listing: Listing,
    gone: Mapping[str, str],
    progress: ProgressListener,
) -> None:
    progress.say(f"{pipeline.config.general.name}: {len(listing.sources)} sources")
    notice = untrained_notice(pipeline)
    if notice:
        progress.warn(notice)
    if not storage.compares_versions:
        progress.warn(f"{storage.root} knows no conditional writes: the lease alone keeps two runs apart")
    for line in listing.leftovers.lines():
        progress.say(line)
    if gone:
        progress.say(
            f"gone from the inputs: {len(gone)} sources ({some_names(gone.values())}); what was measured of "
            "them is kept, and counts again if they return"
        )


def _record_bad_metadata(
    pipeline: Pipeline,
    ledger: Ledger,
    leftovers: Leftovers,
    recorder: Recorder,
    progress: ProgressListener,
) -> None:
    """Say what became known of the metadata when the workers read the sidecars."""
    before = leftovers.lines()
    leftovers.num_bad_metadata = num_bad_metadata(ledger)
    for line in leftovers.lines():
        if line not in before:
            progress.say(line)
    recorder.describe_again(pipeline, leftovers.record())


def _warn_of_copies(ledger: Ledger, progress: ProgressListener) -> None:
    """Name sources with the bytes of retracted ones: whether they may stay is for people to decide."""
    found = copies_of_retracted(ledger)
    if found:
        progress.warn(
            f"{len(found)} sources hold the bytes of retracted ones ({some_names(found)}); "
            "`curation retract --source URI` takes them out, too"
        )


def _conclude(
    ledger: Ledger,
    pipeline: Pipeline,
    summary: Summary,
    written: Any,
    metrics: Metrics,
    record: dict[str, Any],
) -> Result:
    """Card and report; a file whose content would not change is left alone.

    `written` is what the shard writer left, None where it was not asked to; `record` is run.json.
    """
    storage, folder = ledger.storage, pipeline.config.shards_folder
    if written is not None:
        _write_card(storage, pipeline, summary, written)
    write_if_changed(storage, REPORT, render_page(ledger, pipeline, summary, record))
    paths = {"report": f"{storage.root}/{REPORT}", "run": f"{storage.root}/{RUN}"}
    if written is not None:
        paths |= {"shards": f"{storage.root}/{folder}", "card": f"{storage.root}/{folder}/README.md"}
    return Result(pipeline, summary, metrics, paths)


def _write_card(storage: Storage, pipeline: Pipeline, summary: Summary, written: Any) -> None:
    folder = pipeline.config.shards_folder
    write_if_changed(storage, f"{folder}/README.md", render_card(pipeline, summary, written))
    write_if_changed(storage, f"{folder}/croissant.json", render_shards_croissant(pipeline, written))


def write_after_retraction(config: Config, storage: Storage) -> None:
    """Write the report anew, and the card of the configuration's shards, while a retraction is finished.

    Raises:
        ConfigError, EnvironmentFault: a model that it was not measured with can't be found here.
    """
    ledger = Ledger(storage)
    pipeline = _pipeline_to_read(config, ledger)
    summary, _ = write_report(pipeline, ledger)
    if config.shards is not None:
        writer = load(SHARDS)(config.shards)
        written = writer.present(storage, config.shards_folder, Selection(ledger, pipeline))
        if written is not None:
            _write_card(storage, pipeline, summary, written)


def write_report(pipeline: Pipeline, ledger: Ledger) -> tuple[Summary, str]:
    """Render the report anew from the ledger; its path. Pictures that it keeps are not made again."""
    summary = summarize(ledger, pipeline)
    keep_pictures(ledger, pipeline, summary.gallery.without_poison(), side_by_side)
    record = record_now(ledger.storage, pipeline, summary.outcome_totals())
    write_if_changed(ledger.storage, REPORT, render_page(ledger, pipeline, summary, record))
    return summary, f"{ledger.storage.root}/{REPORT}"
