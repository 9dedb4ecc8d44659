"""`curation retract`: take sources out of an output for good."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from curation.cli.console import echo
from curation.cli.ledger import may_remove
from curation.cli.options import OUTPUT, path_text
from curation.errors import ConfigError, EnvironmentFault
from curation.errors.visible import on_one_line

if TYPE_CHECKING:
    from curation.config import Config
    from curation.execution.takedown.request import Asked
    from curation.execution.takedown.retraction import Retraction
    from curation.storage import Storage

_MAX_NAMED = 20


@click.command()
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="URI",
    help="A source as `curation table` names it, a tar or Parquet file with all in it, or a source's id.",
)
@click.option("--list", "list_file", type=path_text, metavar="FILE", help="A file with a URI per line.")
@click.option("--config", "-c", "path", type=path_text, metavar="FILE", help="YAML configuration.")
@OUTPUT
@click.option("--export", "exports", multiple=True, type=path_text, metavar="FOLDER", help="Look here, too.")
@click.option("--copies", is_flag=True, help="Take other sources of the same bytes along.")
@click.option("--allow-missing", is_flag=True, help="Keep tombstones of what is not known here, too.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option("--yes", is_flag=True, help="Remove without asking.")
def retract(
    sources: tuple[str, ...],
    list_file: str | None,
    path: str | None,
    output: str | None,
    exports: tuple[str, ...],
    copies: bool,
    allow_missing: bool,
    dry_run: bool,
    yes: bool,
) -> int:
    """Remove sources and everything that was made of them.

    They are kept out of later runs. Concerned are ledger, listings, shards of every name, card and report.
    Interrupted, the same command finishes.
    """
    texts = [*sources, *(_lines_of(list_file) if list_file else ())]
    config, storage = _opened(path, output)
    with storage.exclusive():
        is_finished = not dry_run and _finish(storage, config)
        if not texts and is_finished:
            return 0
        texts = _not_yet(storage, texts)
        if not texts:
            return 0
        asked, retraction = _planned(storage, config, texts, exports, copies=copies)
        _check_missing(asked, storage.root, allow_missing=allow_missing)
        _show(asked, retraction, exports, storage.root)
        if dry_run:
            echo("nothing was removed: this is a dry run")
            return 0
        if not may_remove(yes=yes):
            return 0
        _carry_out(storage, config, retraction)
        echo(f"retracted {len(retraction.tombstones)} of {storage.root}; the record is in {_records()}")
    return 0


def _lines_of(path: str) -> list[str]:
    from curation.storage import storage_of

    storage, key = storage_of(path)
    data = storage.read(key)
    if data is None:
        raise ConfigError(f"--list: there is no file {path}")
    try:
        lines = data.decode("utf-8-sig").split("\n")  # other breaks may stand within a name
    except UnicodeDecodeError as error:
        raise ConfigError(f"--list: {path} is no text in UTF-8: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _opened(path: str | None, output: str | None) -> tuple[Config | None, Storage]:
    """The configuration, as far as there is one that can be read, and the output."""
    from curation.config import load_config
    from curation.execution.damaged import is_output
    from curation.execution.record.recorded import recorded_config
    from curation.storage import open_storage
    from curation.storage.access import check_input

    if path is None and output is None:
        raise click.UsageError("name the output, by --config or by --output")
    config = load_config(path, output=output) if path else None
    root = config.general.output if config else path_text(output or "")
    storage = open_storage(root)
    check_input(storage.root)
    if not is_output(storage):
        raise ConfigError(f"{storage.root} is no output of a run; there is nothing to retract")
    if config is None:
        with suppress(ConfigError):  # of an older version, or with stages that are not here
            config = recorded_config(root)
    return config, storage


def _finish(storage: Storage, config: Config | None) -> bool:
    """Finish a retraction that was interrupted; whether there was one."""
    from curation.execution.takedown.retraction import pending_retraction

    pending = pending_retraction(storage)
    if pending is None:
        return False
    _carry_out(storage, config, pending)
    echo(f"finished the retraction of {pending.when}, which had been interrupted")
    return True


def _not_yet(storage: Storage, texts: Sequence[str]) -> list[str]:
    """What was not retracted before."""
    from curation.execution.takedown.request import target_uri
    from curation.ingest.tombstones import read_tombstones

    if not texts:
        raise click.UsageError("name what is to go, by --source or --list")
    tombstones = read_tombstones(storage)
    done = [text for text in texts if tombstones.covers(target_uri(text))]
    for text in done:
        echo(on_one_line(f"{text} was retracted before"))
    return [text for text in texts if text not in done]


def _planned(
    storage: Storage, config: Config | None, texts: Sequence[str], exports: Sequence[str], *, copies: bool
) -> tuple[Asked, Retraction]:
    from curation.execution.takedown.request import find_asked
    from curation.execution.takedown.retraction import plan_retraction
    from curation.storage import open_storage

    asked = find_asked(storage, texts, copies=copies)
    retraction = plan_retraction(
        storage,
        asked,
        command="curation retract --copies" if copies else "curation retract",
        exports={folder: open_storage(folder) for folder in exports},
        **_windows(config),
    )
    return asked, retraction


def _windows(config: Config | None) -> dict[str, Any]:
    from curation.execution.takedown.lineage import windows_of

    return {} if config is None else {"windows": windows_of(config)}


def _check_missing(asked: Asked, root: str, *, allow_missing: bool) -> None:
    missing = asked.missing
    if not missing or allow_missing:
        return
    lines = []
    for text in missing:
        near = asked.near.get(text)
        like = f"did you mean {', '.join(near)}?" if near else "nothing is like it"
        lines.append(on_one_line(f"{text} ({like})"))
    known = f"{root} knows nothing of"
    if len(lines) == 1:
        raise ConfigError(f"{known} {lines[0]}; --allow-missing keeps it out of later runs all the same")
    text = "\n  ".join(
        [f"{known} {len(lines)} of these; nothing was removed, --allow-missing goes on", *lines]
    )
    raise ConfigError(text)


def _show(asked: Asked, retraction: Retraction, exports: Sequence[str], root: str) -> None:
    from curation.ingest.leftovers import some_names

    for uri in list(asked.targets)[:_MAX_NAMED]:
        echo(on_one_line(f"  {uri}"))
    if len(asked.targets) > _MAX_NAMED:
        echo(f"  and {len(asked.targets) - _MAX_NAMED} more")
    for name, number in retraction.counts.items():
        echo(f"{number:10d}  {name}")
    for uri in asked.same_bytes:
        echo(on_one_line(f"the same bytes are in {uri}, which stays; --copies takes it along"))
    for folder in exports:
        files = retraction.exports[folder]
        holding = (
            f"these hold samples that go: {', '.join(files)}" if files else "no file names a sample that goes"
        )
        echo(f"{folder}: {holding}; write the export anew from the shards")
    inside = retraction.exports.get(root, ()) if root not in exports else ()
    if inside:
        echo(
            on_one_line(
                f"{root} holds samples that go in files which are none of a run: {some_names(inside)}"
            )
        )
        echo("these stay as they are: remove them yourself, and export again")
    echo(
        "Verdicts of other samples may change where stages compare samples with each other: the next run "
        "decides them anew. Exports and published copies lie elsewhere: docs/takedown.md says what to do."
    )


def _carry_out(storage: Storage, config: Config | None, retraction: Retraction) -> None:
    from curation.execution.run import write_after_retraction
    from curation.execution.takedown.retraction import carry_out

    def conclude() -> None:
        if config is None:
            echo("report and card are written anew by the next run, or with --config")
            return
        try:
            write_after_retraction(config, storage)
        except (ConfigError, EnvironmentFault) as error:
            echo(f"report and card are written anew by the next run: {error}")

    carry_out(storage, retraction, conclude=conclude, **_windows(config))


def _records() -> str:
    from curation.execution.takedown.retraction import RECORDS

    return RECORDS
