"""A run, from the configuration to the report. `run` is the story; read it from top to bottom."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from curation import __version__
from curation.config import Config
from curation.errors import ConfigError, LedgerError
from curation.errors.redaction import redact_settings
from curation.execution.cluster import check_temp_folder, starts_here
from curation.execution.dataset_wide import (
    Population,
    bind,
    bind_step,
    dataset_steps,
    filters_behind,
    measure_step,
)
from curation.execution.driver import Pool
from curation.execution.plan import Phase, Task, filtered_as_read, plan_listing, plan_pass, plan_probes
from curation.execution.progress import ProgressListener
from curation.execution.worker.measure import Metrics
from curation.ingest.leftovers import some_names
from curation.ingest.listing import Listing, find_inputs, list_inputs, unlisted_containers
from curation.ledger import Ledger
from curation.ledger.present import absent_sources, remember_listing
from curation.ledger.selection import Selection
from curation.ledger.unit_state import NO_RECOMPUTE, PROBE, RecomputePolicy
from curation.media.decoder import check_decoder
from curation.pipeline import Pipeline, Readiness, build_pipeline
from curation.pipeline.models import Checklist
from curation.pipeline.rules import Step
from curation.records import Source
from curation.registry import SHARDS, load
from curation.report.card import render_card
from curation.report.funnel import untrained_notice
from curation.report.page import render_page
from curation.report.summary import Summary, summarize
from curation.storage import Storage, open_storage

REPORT = "report/index.html"
RUN = "run.json"
_NAMED_PACKAGES: tuple[str, ...] = (
    "av",
    "numpy",
    "onnxruntime",
    "open_clip_torch",
    "opencv-python-headless",
    "pyarrow",
    "rapidocr",
)
_NAMED_PACKAGES += ("ray", "scenedetect-headless", "torch", "transformers", "vllm")


@dataclass(frozen=True)
class RunOptions:
    """What a run should do.

    Attributes:
        only: Keys of the steps that may be measured; None for all.
        recompute: Rows that count as missing.
        address: Ray cluster; None starts one on this machine.
        limit: Take up at most this many sources.
        accept_new_models: Go on although a model is another one than the output was begun with.
    """

    only: frozenset[str] | None = None
    recompute: RecomputePolicy = NO_RECOMPUTE
    address: str | None = None
    limit: int | None = None
    accept_new_models: bool = False


@dataclass(frozen=True)
class Result:
    """What a run left: the summary, what it measured, and where things are."""

    pipeline: Pipeline
    summary: Summary
    metrics: Metrics
    paths: dict[str, str] = field(default_factory=dict)

    @property
    def did_work(self) -> bool:
        """Whether anything was measured."""
        return self.metrics.rows.total() > 0


def open_pipeline(config: Config) -> tuple[Pipeline, Ledger]:
    """The pipeline and the ledger of an output that there is, to read from.

    Raises:
        ConfigError: no run has been there, or a model is not the one that the output was begun with.
        EnvironmentFault: a model can't be found.
    """
    storage = open_storage(config.general.output)
    ledger = Ledger(storage)
    record = _read_run(storage)
    if not record and not ledger.units():
        raise ConfigError(f"{storage.root} is no output of a run; `curation run` would make it one")
    return bind(build_pipeline(config, record.get("models")), ledger), ledger


def _open_for_work(config: Config, options: RunOptions) -> tuple[Pipeline, Ledger, Any]:
    """Pipeline, ledger and shard writer, once everything is there that they need.

    Raises:
        ConfigError: a model is not the one that the output was begun with, or is named wrongly.
        EnvironmentFault: something is missing on this machine; all of it is named.
    """
    storage = open_storage(config.general.output)
    is_local = starts_here(options.address)
    checklist = Checklist()
    pipeline = build_pipeline(
        config,
        _read_run(storage).get("models"),
        accept_new_models=options.accept_new_models,
        readiness=Readiness(checklist, packages=is_local),
    )
    writer = load(SHARDS)(config.shards) if config.shards is not None else None
    if writer is not None:
        checklist.attempt("shards", writer.check)
    if is_local:
        checklist.attempt("run", partial(check_decoder, config.run.decoder))
        checklist.attempt("Ray", check_temp_folder)
    checklist.finish()
    return pipeline, Ledger(storage), writer


def run(config: Config, options: RunOptions, progress: ProgressListener) -> Result:
    """Measure what is missing, write shards and report, and check that the counts add up.

    Raises:
        CurationError: what no retry helps against; the ledger holds all that was committed before.
    """
    started = time.monotonic()
    pipeline, ledger, writer = _open_for_work(config, options)
    found = find_inputs(config)
    with ledger.storage.exclusive():
        with Pool(pipeline, ledger, options.address, progress) as pool:
            retry_failed = options.recompute.counts_as_missing(PROBE, row_failed=True)
            _list_containers(unlisted_containers(config, found, retry_failed=retry_failed), pool, progress)
            listing = list_inputs(config, found)
            remember_listing(ledger.storage, listing.sources)
            _announce(pipeline, listing, absent_sources(ledger).gone, progress)
            before = _read_run(ledger.storage)
            _write_run(ledger.storage, pipeline, listing.leftovers.record(), before.get("last_work"))

            def plan(phase: Phase, pipeline: Pipeline, steps: Collection[str]) -> list[Task]:
                allowed = set(steps) if options.only is None else options.only & set(steps)
                if phase == "probe":
                    probes = plan_probes(
                        ledger, listing, config, limit=options.limit, recompute=options.recompute
                    )
                    return [filtered_as_read(pipeline, task, allowed) for task in probes]
                return list(plan_pass(ledger, pipeline, phase, allowed, recompute=options.recompute))

            pipeline, metrics = _measure(pipeline, ledger, pool, plan, options, progress)
        # A single stage leaves later ones pending; shards made then would lose samples.
        return _conclude(
            pipeline, ledger, None if options.only else writer, metrics, time.monotonic() - started
        )


def _list_containers(containers: Sequence[Source], pool: Pool, progress: ProgressListener) -> None:
    """Have workers look into containers, which may be damaged, or made to do damage."""
    if containers:
        progress.begin("list", len(containers))
        pool.do(plan_listing(containers))
        progress.end()


def _announce(
    pipeline: Pipeline, listing: Listing, gone: Mapping[str, str], progress: ProgressListener
) -> None:
    progress.say(f"{pipeline.config.general.name}: {len(listing.sources)} sources")
    notice = untrained_notice(pipeline)
    if notice:
        progress.warn(notice)
    for line in listing.leftovers.lines():
        progress.say(line)
    if gone:
        progress.say(
            f"gone from the inputs: {len(gone)} sources ({some_names(gone.values())}); what was measured of "
            "them is kept, and counts again if they return"
        )


def _measure(
    pipeline: Pipeline,
    ledger: Ledger,
    pool: Pool,
    plan: Callable[[Phase, Pipeline, Collection[str]], list[Task]],
    options: RunOptions,
    progress: ProgressListener,
) -> tuple[Pipeline, Metrics]:
    """The passes. Ray is started by the first pass that has work, so a run without work never does.

    New units are filtered as they are read; what the filter pass then finds are older units, and long videos.
    Dataset-wide steps come between the filter and the finish pass, in this process; filters that stand
    behind one of them have a pass of their own. The pipeline comes back with those steps bound.
    """
    metrics = Metrics()

    def do(phase: Phase, tasks: Sequence[Task]) -> None:
        if tasks:
            with _services(pipeline, tasks, progress) as services:
                progress.begin(phase, sum(task.num_sources for task in tasks))
                metrics.add(pool.do([replace(task, services=services) for task in tasks]))
                progress.end()

    first = filters_behind(pipeline, None)
    new = plan("probe", pipeline, first)
    do("probe", [task for task in new if task.phase == "probe"])
    do("filter", [task for task in new if task.phase == "filter"])
    do("filter", plan("filter", pipeline, first))
    for kind, step in dataset_steps(pipeline):
        pipeline, population = bind_step(pipeline, ledger, kind, step)
        pool.use(pipeline)
        bound = pipeline.step_of(step.key)
        if bound is not None and (options.only is None or step.key in options.only):
            metrics.add(_measure_together(pipeline, ledger, bound, population, options.recompute, progress))
        do("filter", plan("filter", pipeline, filters_behind(pipeline, step.key)))
    do("enrich", plan("enrich", pipeline, {step.key for step in pipeline.steps()}))
    return pipeline, metrics


def _measure_together(
    pipeline: Pipeline,
    ledger: Ledger,
    step: Step,
    population: Population,
    recompute: RecomputePolicy,
    progress: ProgressListener,
) -> Metrics:
    """A dataset-wide step, once everything before it has been measured."""
    if population.num_waiting:
        progress.say(
            f"{step.key} waits: {population.num_waiting} samples are not through the stages before it"
        )
        return Metrics()
    metrics = measure_step(pipeline, ledger, step, population, recompute)
    if metrics.rows[step.key]:
        seconds = metrics.seconds[step.key]
        progress.say(f"{step.key}: {metrics.rows[step.key]} samples looked at together in {seconds:.1f} s")
    return metrics


@contextmanager
def _services(
    pipeline: Pipeline, tasks: Sequence[Task], progress: ProgressListener
) -> Iterator[Mapping[str, Mapping[str, str]]]:
    """Start what must run beside these tasks' stages; step key -> what it says. Stopped in any case."""
    needed = frozenset().union(*(task.needs for task in tasks))
    with ExitStack() as stack:
        found = {}
        for step in pipeline.steps():
            service = step.stage.service(pipeline.revisions(step)) if step.key in needed else None
            if service is not None:
                progress.say(f"starting what {step.key} needs")
                found[step.key] = stack.enter_context(service)
        yield found


def _conclude(pipeline: Pipeline, ledger: Ledger, writer: Any, metrics: Metrics, seconds: float) -> Result:
    """Shards, summary, card, report, run.json; a file whose content would not change is left alone."""
    storage, name = ledger.storage, pipeline.config.general.name
    summary = summarize(ledger, pipeline)
    folder = f"shards/{name}"
    written = None
    if writer is not None:
        written = writer.write(storage, folder, Selection(ledger, pipeline))
        _write_if_changed(storage, f"{folder}/README.md", render_card(pipeline, summary, written))
    before = _read_run(storage)
    last_work = _last_work(metrics, seconds) if metrics.rows.total() else before.get("last_work")
    run_record = _write_run(storage, pipeline, before.get("listing"), last_work)
    _write_if_changed(storage, REPORT, render_page(ledger, pipeline, summary, run_record))
    paths = {"report": f"{storage.root}/{REPORT}", "run": f"{storage.root}/{RUN}"}
    if written is not None:
        paths |= {"shards": f"{storage.root}/{folder}", "card": f"{storage.root}/{folder}/README.md"}
    return Result(pipeline, summary, metrics, paths)


def write_report(pipeline: Pipeline, ledger: Ledger) -> tuple[Summary, str]:
    """Render the report anew from the ledger; its path."""
    summary = summarize(ledger, pipeline)
    before = _read_run(ledger.storage)
    record = _run_record(pipeline, before.get("listing"), before.get("last_work"))
    _write_if_changed(ledger.storage, REPORT, render_page(ledger, pipeline, summary, record))
    return summary, f"{ledger.storage.root}/{REPORT}"


def _last_work(metrics: Metrics, seconds: float) -> dict[str, Any]:
    keys = [PROBE, *(key for key in metrics.seconds if key != PROBE)]
    decoded = metrics.frames_decoded
    return {
        "seconds": round(seconds, 1),
        "steps": [
            {
                "step": key,
                "rows": metrics.rows[key],
                "failed": metrics.failed[key],
                "seconds": round(metrics.seconds[key], 3),
                "usage": {name: round(number, 3) for name, number in metrics.usage.get(key, {}).items()},
            }
            for key in keys
            if metrics.rows[key]
        ],
        "frames_decoded": decoded.total(),
        "images_decoded": metrics.images_decoded.total(),
        "decodes_per_frame": round(decoded["filter"] / metrics.frames_held, 3)
        if metrics.frames_held
        else None,
        "bytes_stored": dict(metrics.bytes_stored),
        "bytes_read": dict(metrics.bytes_read),
        "reads_per_byte": {
            phase: round(metrics.bytes_read[phase] / stored, 3)
            for phase, stored in metrics.bytes_stored.items()
            if stored
        },
    }


def _run_record(pipeline: Pipeline, listing: Any, last_work: Any) -> dict[str, Any]:
    return {
        "untrained": untrained_notice(pipeline),
        "curation": __version__,
        "config": redact_settings(pipeline.config.resolved),
        "models": [asdict(model) for model in pipeline.models],
        "fingerprints": {step.key: step.fingerprint for step in pipeline.steps() if step.is_bound},
        "versions": {"python": platform.python_version(), **_versions()},
        "listing": listing,
        "last_work": last_work,
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _NAMED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _write_run(storage: Storage, pipeline: Pipeline, listing: Any, last_work: Any) -> dict[str, Any]:
    record = _run_record(pipeline, listing, last_work)
    _write_if_changed(storage, RUN, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return record


def _read_run(storage: Storage) -> dict[str, Any]:
    data = storage.read(RUN)
    try:
        record = json.loads(data) if data else {}
    except ValueError as error:
        raise LedgerError(f"{storage.root}/{RUN} is damaged: {error}") from error
    if not isinstance(record, dict):
        raise LedgerError(f"{storage.root}/{RUN} is damaged: it holds no mapping")
    return record


def _write_if_changed(storage: Storage, key: str, text: str) -> None:
    data = text.encode()
    if storage.read(key) != data:
        storage.write(key, data)
