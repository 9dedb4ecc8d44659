"""`curation label`: draw clips, have a strong model describe them, take corrections, export training data."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from curation.cli.console import echo
from curation.cli.options import ConfigFile, config_options, expanded_path, target_path
from curation.registry import LABELS, SERVER_ENGINE, load


@click.group()
def label() -> None:
    """Make training data for a captioner."""


@label.command()
@click.argument("folder", type=expanded_path)
@config_options
@click.option("--num", type=click.IntRange(min=1), default=200, show_default=True, help="Clips to draw.")
@click.option("--seed", default=0, show_default=True, help="Another seed draws other clips.")
@click.option("--frames", type=click.IntRange(1, 64), default=8, show_default=True, help="Frames of a clip.")
@click.option(
    "--short-side", type=click.IntRange(min=28), default=512, show_default=True, help="Of a frame, in pixels."
)
def draw(config_file: ConfigFile, folder: Path, num: int, seed: int, frames: int, short_side: int) -> int:
    """Draw kept clips into FOLDER, evenly over strata of length, motion and looks."""
    from curation.execution.run import open_pipeline

    pipeline, ledger = open_pipeline(config_file.load())
    labels: list[Any] = load(f"{LABELS}:draw")(
        ledger, pipeline, folder, number=num, seed=seed, num_frames=frames, short_side=short_side
    )
    counts: dict[str, int] = {}
    for item in labels:
        counts[item.stratum] = counts.get(item.stratum, 0) + 1
    for stratum, number in sorted(counts.items()):
        echo(f"{number:6}  {stratum}")
    echo(f"{len(labels)} clips in {folder}/labels.jsonl")
    return 0


@label.command()
@click.argument("folder", type=expanded_path)
@click.option("--url", required=True, metavar="URL", help="Base URL of an OpenAI-compatible server.")
@click.option("--model", required=True, metavar="NAME", help="The model's name there.")
@click.option(
    "--api-key-env",
    default="OPENAI_API_KEY",
    show_default=True,
    metavar="NAME",
    help="Environment variable with the key.",
)
@click.option("--concurrency", type=click.IntRange(min=1), default=8, show_default=True)
def ask(folder: Path, url: str, model: str, api_key_env: str, concurrency: int) -> int:
    """Ask a strong model for the captions that FOLDER lacks; the same command goes on where it stopped."""
    engine = load(SERVER_ENGINE)(url, model, api_key_env, concurrency)
    given = load(f"{LABELS}:ask")(folder, engine, model, partial(echo, err=True))
    echo(f"{given} captions written to {folder}/labels.jsonl")
    return 0


@label.command()
@click.argument("folder", type=expanded_path)
@click.argument("corrected", type=expanded_path)
@click.option("--by", required=True, metavar="NAME", help="Who looked at these captions.")
def correct(folder: Path, corrected: Path, by: str) -> int:
    """Take captions from CORRECTED, an edited copy of FOLDER's labels.jsonl, and note who and when."""
    counts = load(f"{LABELS}:take_corrections")(folder, corrected, by)
    echo(", ".join(f"{number} {what}" for what, number in counts.items()))
    return 0


@label.command()
@click.argument("folder", type=expanded_path)
@click.option("--to", "target", required=True, type=target_path, metavar="FILE")
@click.option("--format", "layout", type=click.Choice(["llamafactory", "qwen"]), default="llamafactory")
@click.option("--unreviewed", is_flag=True, help="Also captions that nobody has looked at.")
def export(folder: Path, target: Path, layout: str, unreviewed: bool) -> int:
    """Write reviewed captions with their frames as training data."""
    number = load(f"{LABELS}:export")(folder, target, layout, unreviewed=unreviewed)
    echo(f"{target}: {number} clips")
    return 0
