"""Running the pipeline from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curation.api.output import Output
from curation.api.settings import Location, config_of
from curation.cli.console import console
from curation.execution.orders import order_of
from curation.execution.progress import ConsoleProgress, LineProgress, ProgressListener
from curation.execution.run import run as run_pipeline
from curation.ledger import Ledger
from curation.storage import open_storage


@dataclass(frozen=True)
class Run:
    """What a run came to.

    Attributes:
        outcomes: "image sources", "video sources", "images", "clips" -> "in", "kept", "rejected", "failed",
            "pending" -> how many.
        paths: "report", "run", "shards", "card" -> where it was written.
        ok: Whether no larger share failed than `run.max_failed_fraction` allows.
        did_work: Whether anything was measured.
        output: The output, open for reading.
    """

    outcomes: Mapping[str, Mapping[str, int]]
    paths: Mapping[str, str]
    ok: bool
    did_work: bool
    output: Output = field(repr=False)


def run(
    config: Location | Mapping[str, Any] | None = None,
    *,
    output: Location | None = None,
    input: Location | Sequence[Location] | None = None,
    set: Mapping[str, Any] | None = None,
    only: str | None = None,
    retry_failed: bool = False,
    recompute: bool = False,
    limit: int | None = None,
    address: str | None = None,
    accept_new_models: bool = False,
    progress: bool | ProgressListener = False,
) -> Run:
    """Do everything that is missing, and write shards, report and card: as `curation run` does.

    Ctrl-C raises KeyboardInterrupt, and ends all that was started; what was measured is kept.

    Args:
        config: A YAML file, which may be in a bucket, or its settings; None for those `output` was made with.
        output: Folder or URL, in place of the configuration's.
        input: Folders or URLs, in place of the configuration's.
        set: Dotted name -> value, such as {"images.aesthetic.min_score": 5.2}; None drops a section.
        only: Measure this stage alone, such as "text" or "videos.text", and write no shards.
        retry_failed: Try again what failed.
        recompute: With `only`: measure again what has been measured.
        limit: Take up at most this many sources, 1 or more.
        address: Head of a Ray cluster; by default Ray is started on this machine, and ended.
        accept_new_models: Measure anew with models that changed under their name.
        progress: True shows what the command shows; or a listener of one's own. Nothing is printed else.

    Raises:
        ConfigError: the configuration can't be carried out as written.
        EnvironmentFault: this machine lacks something, or a part of it failed.
        StorageError: input or output can't be reached, or is full.
        CurationError: any other reason to stop; what was measured before is kept.
    """
    settings = config_of(config, output=output, input=input, changes=set, to_measure=True)
    order = order_of(
        settings,
        only,
        retry_failed=retry_failed,
        recompute=recompute,
        limit=limit,
        address=address,
        accept_new_models=accept_new_models,
    )
    listener = _listener(progress)
    try:
        result = run_pipeline(settings, order, listener)
    finally:
        listener.end()
    return Run(
        outcomes=result.summary.outcome_totals(),
        paths=result.paths,
        ok=result.summary.failed_fraction() <= settings.run.max_failed_fraction,
        did_work=result.did_work,
        output=Output(result.pipeline, Ledger(open_storage(settings.general.output))),
    )


def _listener(progress: bool | ProgressListener) -> ProgressListener:
    if isinstance(progress, bool):
        return ConsoleProgress(console()) if progress else LineProgress(lambda event: None)
    return progress
