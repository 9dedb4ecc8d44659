"""Commands that ask what other settings would do, by what is measured already: sweep, compare, sample."""

from __future__ import annotations

from dataclasses import replace
from math import isnan
from pathlib import PurePath
from typing import TYPE_CHECKING

import click

from curation.cli.console import echo
from curation.cli.options import ConfigFile, config_options, path_text, target_text
from curation.errors import ConfigError
from curation.errors.visible import on_one_line

if TYPE_CHECKING:
    from curation.ledger import Ledger
    from curation.pipeline import Pipeline
    from curation.whatif.drawn import DrawnSample
    from curation.whatif.sides import ComparedSide
    from curation.whatif.sweep import Sweep

_SAMPLE_SUFFIXES = (".png", ".html", ".txt", ".csv", ".parquet")
_SWEEP_SUFFIXES = (".csv", ".parquet", ".json", ".html", ".svg", ".png")


@click.command()
@click.argument("settings", nargs=-1, required=True, metavar="KEY=START:STOP:STEP...")
@config_options
@click.option(
    "--to",
    "targets",
    multiple=True,
    type=target_text,
    metavar="FILE",
    help="Table (.csv, .parquet, .json) or plot (.html, .svg, .png) to write; may be given again.",
)
def sweep(config_file: ConfigFile, settings: tuple[str, ...], targets: tuple[str, ...]) -> int:
    """Show the yield of each step at other thresholds.

    Nothing is measured. KEY names a threshold, such as images.aesthetic.min_score=4:6:0.25, or with a list of
    values, images.aesthetic.min_score=null,5,5.5. Several thresholds give every combination.
    """
    from curation.cli.console import console
    from curation.execution.run import open_pipeline
    from curation.report.summary.funnel import untrained_notice
    from curation.whatif.axes import parse_axes
    from curation.whatif.sweep import sweep as sweep_points
    from curation.whatif.yields import print_sweep

    for target in targets:
        _check_suffix(target, _SWEEP_SUFFIXES)
    pipeline, ledger = open_pipeline(config_file.load())
    found = sweep_points(ledger, pipeline, parse_axes(settings, pipeline))
    notice = untrained_notice(pipeline)
    if notice:
        echo(notice)
    print_sweep(console(), pipeline, found)
    for target in targets:
        _write_sweep(pipeline, found, target)
        echo(target)
    return 0


def _write_sweep(pipeline: Pipeline, found: Sweep, target: str) -> None:
    from curation.report.tables.flatfile import format_of, write_table
    from curation.storage import storage_of
    from curation.whatif.plot import draw
    from curation.whatif.yields import flat_table, sweep_json

    suffix = _suffix(target)
    if suffix in (".csv", ".parquet"):
        table = flat_table(found)
        write_table(table.schema, [table], target, format_of(target))
        return
    storage, key = storage_of(target)
    data = sweep_json(pipeline, found).encode() if suffix == ".json" else draw(found, suffix)
    storage.write(key, data)


@click.command()
@click.argument("sides", nargs=-1, required=True, metavar="[A] B")
@config_options
@click.option(
    "--to", "target", type=target_text, metavar="FILE", help="Write all changed samples: .parquet or .csv."
)
def compare(config_file: ConfigFile, sides: tuple[str, ...], target: str | None) -> int:
    """Show which samples end otherwise in B than in A, and why.

    Nothing is measured. Each is an output (a folder or a URL), a configuration (FILE.yaml), or changes to the
    one that --config or --output names: KEY=VALUE, or KEY=VALUE,KEY=VALUE. Of B alone, A is that
    configuration as it is. Settings of --set hold on both sides.
    """
    from curation.cli.console import console
    from curation.report.tables.flatfile import format_of, write_table
    from curation.whatif.compare import CHANGED, Comparison
    from curation.whatif.differences import print_comparison

    layout = None if target is None else format_of(target)
    before, after = _sides(config_file, sides)
    found = Comparison(before, after)
    if target is None or layout is None:
        for _ in found.changed():
            pass
    else:
        num_rows = write_table(CHANGED, found.changed(), target, layout)
    print_comparison(console(), found, config_file.overrides)
    if target is not None:
        echo(f"{target}: {num_rows} rows")
    return 0


def _sides(base: ConfigFile, texts: tuple[str, ...]) -> tuple[ComparedSide, ComparedSide]:
    from curation.whatif.sides import ComparedSide, is_setting, settings_in

    if len(texts) > 2:
        raise click.UsageError(f"compare takes two outputs or settings, not {len(texts)}")
    if len(texts) == 1 and not is_setting(texts[0]):
        raise click.UsageError(f"{texts[0]}: compared with what? Name two, or a change such as KEY=VALUE")
    found = [] if len(texts) == 2 else [ComparedSide.of("as configured", base.load())]
    for text in texts:
        if is_setting(text):
            file = replace(base, overrides=(*base.overrides, *settings_in(text)))
        elif _suffix(text) in (".yaml", ".yml"):
            file = replace(base, path=path_text(text))
        else:
            file = replace(base, path=None, output=path_text(text))
        found.append(ComparedSide.of(text, file.load()))
    before, after = found
    return before, after


@click.command()
@config_options
@click.option("--rejected-by", metavar="STEP", help="Those that a step rejects: its key or its name.")
@click.option("--kept", "outcomes", flag_value="kept", multiple=True, help="Those that are kept.")
@click.option("--failed", "outcomes", flag_value="failed", multiple=True, help="Those that failed.")
@click.option(
    "--outcome",
    "outcomes",
    type=click.Choice(["kept", "rejected", "failed", "pending"]),
    multiple=True,
    help="Those that end so.",
)
@click.option("--near", type=click.FloatRange(min=0), metavar="X", help="At most so far from the threshold.")
@click.option("--threshold", metavar="KEY", help="The threshold that --near is about.")
@click.option("--n", "number", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws other samples.")
@click.option(
    "--to",
    "target",
    type=target_text,
    metavar="FILE",
    help="Contact sheet (.png, .html), or the samples alone (.txt: ids, .csv, .parquet).",
)
def sample(
    config_file: ConfigFile,
    rejected_by: str | None,
    outcomes: tuple[str, ...],
    near: float | None,
    threshold: str | None,
    number: int,
    seed: int,
    target: str | None,
) -> int:
    """Draw samples of one outcome, or near a threshold.

    The same ones each time.
    """
    from curation.execution.run import open_pipeline
    from curation.records import Outcome
    from curation.whatif.drawn import Wanted, draw_samples, said_values

    if target is not None:
        _check_suffix(target, _SAMPLE_SUFFIXES)
    if near is not None and isnan(near):
        raise click.UsageError("--near nan: this is no distance")
    if len(set(outcomes)) > 1 or (rejected_by and outcomes and outcomes[0] != "rejected"):
        raise click.UsageError(
            "a sample ends in one way: name one of --rejected-by, --kept, --failed, --outcome"
        )
    outcome = Outcome(outcomes[0]) if outcomes else None
    pipeline, ledger = open_pipeline(config_file.load())
    wanted = Wanted(outcome=outcome, rejected_by=rejected_by, threshold=threshold, near=near)
    drawn = draw_samples(ledger, pipeline, wanted, number=number, seed=seed)
    for one in drawn:
        by = f" by {one.reason}" if one.reason else ""
        echo(on_one_line(f"{one.sample.sample_id} {one.uri} {one.outcome}{by}  {said_values(one)}"))
    if not drawn:
        echo("no sample is like that")
    if target is not None:
        _write_samples(pipeline, ledger, drawn, target)
        echo(target)
    return 0


def _write_samples(pipeline: Pipeline, ledger: Ledger, drawn: list[DrawnSample], target: str) -> None:
    from curation.execution.pictures import pictures_of, side_by_side
    from curation.report.summary.funnel import untrained_notice
    from curation.report.tables.flatfile import format_of, write_table
    from curation.storage import storage_of
    from curation.whatif.contact_sheet import sheet_html, sheet_png
    from curation.whatif.drawn import table_of

    suffix = _suffix(target)
    if suffix in (".csv", ".parquet"):
        table = table_of(drawn)
        write_table(table.schema, [table], target, format_of(target))
        return
    if suffix == ".txt":
        data = "".join(f"{one.sample.sample_id}\n" for one in drawn).encode()
    else:
        pictures = pictures_of(ledger, pipeline, [one.located for one in drawn], side_by_side)
        title = f"{pipeline.config.general.name}: {len(drawn)} samples"
        if suffix == ".png":
            data = sheet_png(title, drawn, pictures)
        else:
            data = sheet_html(title, drawn, pictures, untrained_notice(pipeline)).encode()
    storage, key = storage_of(target)
    storage.write(key, data)


def _suffix(target: str) -> str:
    return PurePath(target).suffix.lower()


def _check_suffix(target: str, known: tuple[str, ...]) -> None:
    if _suffix(target) not in known:
        raise ConfigError(f"--to {target}: the name must end in {', '.join(known[:-1])} or {known[-1]}")
