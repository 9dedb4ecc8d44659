"""Fetches all models of a configuration to this machine, for `curation fetch`; a run then needs no network.

    for model in fetch_models(config, recorded, on_begin=print):
        model.path, model.revision, model.num_bytes

What can't be fetched is said in the end, all of it at once, when everything else is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from curation.config import Config
from curation.errors import ConfigError
from curation.errors.redaction import redact
from curation.pipeline.bucket_models import find_model, is_in_bucket
from curation.pipeline.downloads import download
from curation.pipeline.model_files import digest_of_model
from curation.pipeline.models import (
    Checklist,
    check_package,
    checked_digest,
    hub_files,
    local_path,
    resolve_revision,
)
from curation.registry import SHARDS, load
from curation.stage import ModelRef

_SNAPSHOTS = "snapshots"
OnFetch = Callable[[int], None]


@dataclass(frozen=True)
class FetchedModel:
    """A model that is on this machine now.

    Attributes:
        places: The steps that use it.
        role: What it is to them.
        name: As in the configuration, without secrets.
        revision: The hub's commit, or a sha256.
        path: Its file or folder.
        num_bytes: Size of all its files.
        was_there: Whether nothing had to be fetched.
    """

    places: tuple[str, ...]
    role: str
    name: str
    revision: str
    path: Path
    num_bytes: int
    was_there: bool


def fetch_models(
    config: Config,
    recorded: Sequence[Mapping[str, Any]] = (),
    *,
    on_begin: Callable[[str, ModelRef], None],
    on_fetch: OnFetch,
) -> Iterator[FetchedModel]:
    """Fetch one model after the other.

    Args:
        config: A checked configuration; its prompts were read when it was.
        recorded: `models` of run.json: of those on the hub the commit that the output was begun with.
        on_begin: Called before each model with where it is used.
        on_fetch: Told how many bytes come from URLs and buckets; the hub's client shows its own progress.

    Raises:
        ConfigError, StorageError, MissingDependencyError: some can't be fetched; all of them are named.
    """
    known = {(model["name"], model["asked"], model["role"]): model["revision"] for model in recorded}
    checklist = Checklist()
    for package, extra, place in _packages(config):
        checklist.attempt(place, partial(check_package, package, extra))
    for ref, places in _wanted(config).items():
        on_begin(", ".join(places), ref)
        revision = known.get((redact(ref.name), ref.revision, ref.role))
        for place in places:
            found = checklist.attempt(place, partial(_fetch, ref, places, revision, on_fetch))
        if found is not None:
            yield found
    checklist.finish()


def _wanted(config: Config) -> dict[ModelRef, tuple[str, ...]]:
    """Each model with the steps that use it; untrained ones need no files."""
    found: dict[ModelRef, tuple[str, ...]] = {}
    for place, refs in refs_by_place(config):
        for ref in refs:
            if not ref.stand_in:
                found[ref] = (*found.get(ref, ()), place)
    return found


def refs_by_place(config: Config) -> Iterator[tuple[str, Iterable[ModelRef]]]:
    """Steps, and the shards, with the models that they name; vocabularies count as models."""
    for choice in config.choices():
        yield choice.key, choice.build().models()
    if config.shards is not None:
        yield "shards", load(SHARDS)(config.shards).models()


def _packages(config: Config) -> Iterator[tuple[str, str, str]]:
    for choice in config.choices():
        for package, extra in choice.build().packages().items():
            yield package, extra, choice.key


def _fetch(ref: ModelRef, places: tuple[str, ...], recorded: str | None, on_fetch: OnFetch) -> FetchedModel:
    num_fetched = 0

    def count(num_bytes: int) -> None:
        nonlocal num_fetched
        num_fetched += num_bytes
        on_fetch(num_bytes)

    if ref.name.startswith(("http://", "https://")):
        revision = resolve_revision(ref)
        path, was_there = download(ref.name, revision, count), not num_fetched
    elif is_in_bucket(ref.name):
        model = find_model(ref)
        path = model.path(count)
        revision, was_there = checked_digest(ref, model.digest()), not num_fetched
    elif (local := local_path(ref)) is not None:
        path, was_there = local, True
        revision = checked_digest(ref, digest_of_model(local))
    else:
        path, revision, was_there = _from_hub(ref, recorded)
    return FetchedModel(places, ref.role, redact(ref.name), revision, path, _size_of(path), was_there)


def _from_hub(ref: ModelRef, recorded: str | None) -> tuple[Path, str, bool]:
    """The files of the revision by its own name, so that the hub's client finds it without a network."""
    before = _files_in_cache(ref)
    path = hub_files(ref, recorded or ref.revision or "main")
    parts = path.parts
    if _SNAPSHOTS not in parts:
        raise ConfigError(f"{ref.role}: the hub's client put {ref.name} to {path}, which is no cache")
    if ref.sha256 is not None:
        checked_digest(ref, digest_of_model(path))
    commit = parts[len(parts) - 1 - parts[::-1].index(_SNAPSHOTS) + 1]
    return path, commit, _files_in_cache(ref) == before


def _files_in_cache(ref: ModelRef) -> set[str]:
    """The files of a repository that are in the hub's cache, of all revisions."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=ref.name, repo_type="model")
    return {str(path) for path in folder.glob(f"{_SNAPSHOTS}/**/*")}


def _size_of(path: Path) -> int:
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return sum(file.stat().st_size for file in files)
