"""Commands that show what has been measured and measure nothing: status, report, table, explain, preview."""

from __future__ import annotations

import click

from curation.cli.console import echo
from curation.cli.options import ConfigFile, config_options, target_text
from curation.errors import ConfigError


@click.command()
@config_options
def status(config_file: ConfigFile) -> int:
    """Show the funnel as the ledger has it."""
    from curation.cli.console import console
    from curation.execution.run import open_pipeline
    from curation.ingest.tombstones import read_tombstones
    from curation.report.summary.decided import decided_otherwise
    from curation.report.summary.funnel import print_failures, print_funnel
    from curation.report.summary.summary import summarize
    from curation.report.summary.words import counted

    pipeline, ledger = open_pipeline(config_file.load())
    out, summary = console(), summarize(ledger, pipeline)
    print_funnel(out, pipeline, summary)
    for line in decided_otherwise(ledger.storage, pipeline.config):
        echo(line)
    print_failures(out, summary)
    num_retracted = read_tombstones(ledger.storage).num_sources
    if num_retracted:
        echo(f"retracted: {counted(num_retracted, 'source')}")
    return 0


@click.command()
@config_options
def report(config_file: ConfigFile) -> int:
    """Write the HTML report from the ledger."""
    from curation.execution.run import open_pipeline, write_report

    _, place = write_report(*open_pipeline(config_file.load()))
    echo(place)
    return 0


@click.command()
@config_options
@click.option(
    "--to", "target", required=True, type=target_text, metavar="FILE", help=".parquet or .csv file to write."
)
def table(config_file: ConfigFile, target: str) -> int:
    """Write one flat table: a row per source and sample.

    It has every column, outcome and reason, as Parquet or CSV, by the file's name. In CSV lists are JSON and
    bytes are hexadecimal.
    """
    from curation.execution.run import open_pipeline
    from curation.report.tables.flatfile import format_of, write_table
    from curation.report.tables.table import FlatTable

    layout = format_of(target)
    pipeline, ledger = open_pipeline(config_file.load())
    flat = FlatTable(ledger, pipeline)
    num_rows = write_table(flat.schema, flat.parts(), target, layout)
    echo(f"{target}: {num_rows} rows, {len(flat.schema)} columns")
    return 0


@click.command()
@click.argument("wanted", metavar="ID")
@config_options
def explain(config_file: ConfigFile, wanted: str) -> int:
    """Tell everything about one source or sample.

    It is named by an id, the start of one, a URI or a file name.
    """
    from curation.cli.console import console
    from curation.execution.run import open_pipeline
    from curation.report.tables.explain import explain as explain_one

    pipeline, ledger = open_pipeline(config_file.load())
    explain_one(console(), ledger, pipeline, wanted)
    return 0


@click.command()
@click.argument("wanted", metavar="ID")
@config_options
@click.option(
    "--to",
    "target",
    type=target_text,
    default="preview.html",
    show_default=True,
    metavar="FILE",
    help="Page to write, or picture of the first sample: .html or .png.",
)
def preview(
    config_file: ConfigFile,
    wanted: str,
    target: str,
) -> int:
    """Decode tokens, and show them beside the original.

    Those of a sample, or of all samples of a source.
    """
    from curation.execution.run import open_pipeline
    from curation.report.page.tokens import look_at, write_preview
    from curation.report.summary.funnel import untrained_notice

    if not target.endswith((".html", ".png")):
        raise ConfigError(f"--to takes a file that ends in .html or .png, not {target}")
    pipeline, ledger = open_pipeline(config_file.load())
    looks = look_at(ledger, pipeline, wanted)
    notice = untrained_notice(pipeline)
    if notice:
        echo(notice)
    for look in looks:
        found = look.error or f"PSNR {look.psnr_db:.2f} dB, SSIM {look.ssim:.4f}"
        echo(f"{look.sample_id} {look.title}: {found}")
    if all(look.error for look in looks):
        return 1
    write_preview(pipeline, looks, target)
    echo(target)
    return 0
