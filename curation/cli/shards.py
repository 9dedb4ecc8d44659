"""Commands that work on finished shards and token grids: verify, publish, export, preference."""

from __future__ import annotations

from typing import Any

import click

from curation.cli.console import echo
from curation.cli.options import (
    SHARDS_CONFIG,
    SHARDS_OUTPUT,
    ConfigFile,
    path_text,
    shards_options,
    target_text,
)
from curation.errors import ConfigError
from curation.registry import EXPORTS


def _shards_folder(folder: str | None, path: str | None, output: str | None) -> str:
    """Where the shards are: as named, or where the configuration writes them."""
    from curation.execution.takedown.retraction import check_shards_readable
    from curation.registry import MANIFEST, load
    from curation.storage import open_storage
    from curation.storage.access import check_input

    if path is not None and folder is None:
        config = ConfigFile(path, output=output).load()
        folder = f"{config.general.output}/{config.shards_folder}"
    elif folder is None or path is not None:
        raise ConfigError("name either a folder of shards or, with --config, the configuration of their run")
    check_input(folder)
    check_shards_readable(folder)
    names = [item.key for item in open_storage(folder).list("")]
    if not names:
        raise ConfigError(f"{folder}: there is no such folder, or nothing is in it")
    known = (load(MANIFEST), ".parquet")
    if not any(name.endswith(known) and "/" not in name for name in names):
        raise ConfigError(f"{folder} holds no shards; those of a run are in shards/NAME of its output")
    return folder


@click.command()
@shards_options
def verify(folder: str | None, path: str | None, output: str | None) -> int:
    """Check the shards in FOLDER, and that no sample is missing.

    Checked are files, sha256, rows, documents and splits. In the output of a run also whether they hold
    sources that have left the inputs since.
    """
    from curation.ledger.absent import absent_beside
    from curation.registry import READ_DECISION, VERIFY, load
    from curation.storage import open_storage

    place = _shards_folder(folder, path, output)
    decided = load(READ_DECISION)(open_storage(place), "")
    if decided is not None and path is not None:
        for line in decided.differences(ConfigFile(path, output=output).load()):
            echo(line)
    found = load(VERIFY)(open_storage(place), "", absent_beside(place))
    for problem in found.problems:
        echo(problem)
    sound = f"{found.num_shards} shards, {found.num_samples} samples, {found.num_tokens} tokens"
    echo(
        f"{place}: {len(found.problems)} problems; sound: {sound}" if found.problems else f"{place}: {sound}"
    )
    return 1 if found.problems else 0


@click.command()
@click.argument("places", nargs=-1, required=True, type=path_text, metavar="[FOLDER] hf://datasets/ORG/NAME")
@SHARDS_CONFIG
@SHARDS_OUTPUT
@click.option("--private", "is_private", is_flag=True, help="Create it as a private data set.")
@click.option("--revision", metavar="BRANCH", help="Branch to commit to; made if there is none.")
@click.option("--message", metavar="TEXT", help="What the commit says.")
@click.option("--allow-stand-ins", is_flag=True, help="Publish what untrained models made, too.")
def publish(places: tuple[str, ...], path: str | None, output: str | None, **terms: Any) -> int:
    """Bring the shards in FOLDER to the Hugging Face Hub.

    Card and manifest come along. They are verified before. Publishing again sends what differs, and goes on
    where it was stopped.
    """
    from curation.registry import PUBLISH, load

    *folders, url = places
    if len(folders) > 1:
        raise click.UsageError("one folder and one data set, please: [FOLDER] hf://datasets/ORG/NAME")
    place = _shards_folder(folders[0] if folders else None, path, output)
    done = load(PUBLISH)(place, url, echo, **terms)
    for problem in done.problems:
        echo(problem)
    if done.problems:
        echo(f"{place}: {len(done.problems)} problems; nothing was published")
        return 1
    echo(f"sent {done.num_files} files, {done.num_bytes} bytes; {done.num_same} were there")
    echo(f"{'created' if done.is_new else 'published'}: {done.url}")
    return 0


@click.command()
@click.argument("candidates", type=path_text, metavar="CANDIDATES")
@click.argument("votes", type=path_text, metavar="VOTES")
@click.option(
    "--vocabulary", required=True, type=path_text, metavar="FILE", help="The text vocabulary, as in shards."
)
@click.option(
    "--to", "target", required=True, type=target_text, metavar="FILE", help="Parquet file for the triplets."
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
    """Choose the best and worst of several token grids by votes.

    What is written has a row per prompt: (prompt, chosen, rejected).
    """
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


class _ListsFormats(click.Command):
    """Its help names the formats that there are, by the registry alone: none is imported for it."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Formats"):
            formatter.write_text(", ".join(EXPORTS))


@click.command(cls=_ListsFormats)
@click.argument("format_name", metavar="FORMAT")
@shards_options
@click.option(
    "--to", "target", required=True, type=target_text, metavar="FOLDER", help="Empty folder to write into."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the format, such as context=2048.",
)
@click.option(
    "--context",
    type=click.IntRange(min=1),
    help="Ids of a pack, for `packed`: the same as --set context=N.",
)
def export(
    format_name: str,
    folder: str | None,
    path: str | None,
    output: str | None,
    target: str,
    settings: tuple[str, ...],
    context: int | None,
) -> int:
    """Copy the shards in FOLDER into another layout."""
    from curation.config.settings_file import parse_overrides
    from curation.registry import EXPORT, load

    chosen = parse_overrides(settings) | ({} if context is None else {"context": context})
    done = load(EXPORT)(format_name, _shards_folder(folder, path, output), target, **chosen)
    echo(f"{target}: {done.num_samples} samples in {done.num_files} files, counted again")
    for reason, number in done.left_out.items():
        if number:
            echo(f"left out: {number} {reason}")
    return 0
