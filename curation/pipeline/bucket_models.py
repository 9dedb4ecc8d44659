"""Models in buckets: a file or a folder, fetched once per machine.

    model = find_model(ModelRef("head", "s3://models/head.pth"))
    model.digest()                    # as if the file lay here
    model.path()                      # the file in the cache folder

The cache knows a model by its URL and the versions of its objects: what has not changed is neither fetched
nor hashed anew, and a model that was replaced is another one. Of several processes of a machine that want it
at the same time, one fetches it and the others wait.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from curation.errors import ConfigError, StorageError, WriteConflict
from curation.pipeline.model_files import cache_folder, digest_of_model, locked
from curation.stage import ModelRef
from curation.storage import Listed, Storage, open_storage, storage_of
from curation.storage.base import ignore
from curation.storage.buckets.connection import BUCKET_SCHEMES
from curation.storage.local import named_errors

_COPY_BYTES = 1 << 24


def is_in_bucket(name: str) -> bool:
    """Whether a model's name is the URL of something in a bucket."""
    return name.startswith(tuple(f"{scheme}://" for scheme in BUCKET_SCHEMES))


@dataclass(frozen=True)
class BucketModel:
    """A model as its bucket lists it.

    Attributes:
        url: Of the file, or of the folder.
        storage: The folder of the file, or the folder itself.
        objects: Its files, by key.
        is_file: Whether it is one file and no folder.
    """

    url: str
    storage: Storage
    objects: tuple[Listed, ...]
    is_file: bool

    def is_cached(self) -> bool:
        """Whether all of it is on this machine."""
        return self._digest_file.is_file()

    def path(self, on_fetch: Callable[[int], None] = ignore) -> Path:
        """The file or folder on this machine, fetched if need be; `on_fetch` is told how many bytes come.

        Raises:
            StorageError: it can't be fetched, was changed meanwhile, or there is no room for it.
        """
        with named_errors(self._place):
            if not self.is_cached():
                self._place.mkdir(parents=True, exist_ok=True)
                with locked(self._place / "lock"):
                    if not self.is_cached():
                        self._fetch(on_fetch)
        return self._files / self.objects[0].key if self.is_file else self._files

    def digest(self) -> str:
        """As `digest_of_model` of the file or folder. Raises as `path`."""
        self.path()
        return self._digest_file.read_text()

    @cached_property
    def _place(self) -> Path:
        listed = "\n".join(f"{item.key} {item.size_bytes} {item.etag}" for item in self.objects)
        return cache_folder() / "buckets" / hashlib.sha256(f"{self.url}\n{listed}".encode()).hexdigest()

    @property
    def _files(self) -> Path:
        return self._place / "files"

    @property
    def _digest_file(self) -> Path:
        """Written when all files are there."""
        return self._place / "sha256"

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(item.size_bytes for item in self.objects)

    def _fetch(self, on_fetch: Callable[[int], None]) -> None:
        for item in self.objects:
            target = self._files / item.key
            # One that is there in its size was fetched whole by a process that was ended after that.
            if not target.is_file() or target.stat().st_size != item.size_bytes:
                self._fetch_file(item, target, on_fetch)
        path = self._files / self.objects[0].key if self.is_file else self._files
        _write_whole(self._place, self._digest_file, [digest_of_model(path).encode()])

    def _fetch_file(self, item: Listed, target: Path, on_fetch: Callable[[int], None]) -> None:
        try:
            with self.storage.open(item.key, item.etag) as file:
                _write_whole(self._place, target, _parts_of(file, on_fetch))
        except WriteConflict as error:
            raise StorageError(f"{self.url} was changed while it was fetched; run again") from error


def find_model(ref: ModelRef) -> BucketModel:
    """The file or folder that a model's name stands for now.

    Raises:
        ConfigError: there is none.
        StorageError: the bucket can't be reached, or is not there.
    """
    url = ref.name.rstrip("/")
    storage, key = storage_of(url)
    for found_url, place, name in [(url, storage, key), *_file_of(ref, url)]:
        item = place.find(name)
        if item is not None and item.size_bytes:
            return BucketModel(found_url, place, (item,), is_file=True)
    folder = open_storage(url)
    objects = () if ref.file else tuple(folder.list(""))
    if not objects:
        what = f"{url}/{ref.file}" if ref.file else url
        raise ConfigError(f"{ref.role}: there is no file or folder {what}")
    return BucketModel(url, folder, objects, is_file=False)


def _file_of(ref: ModelRef, url: str) -> list[tuple[str, Storage, str]]:
    """Where the file lies that is wanted of a folder, if only one is."""
    return [(f"{url}/{ref.file}", open_storage(url), ref.file)] if ref.file else []


def _parts_of(file: IO[bytes], on_fetch: Callable[[int], None]) -> Iterator[bytes]:
    while part := file.read(_COPY_BYTES):
        on_fetch(len(part))
        yield part


def _write_whole(folder: Path, target: Path, parts: Iterable[bytes]) -> None:
    """Write a file that appears when all of it is there; until then it is a temporary one in `folder`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(prefix=".fetching-", dir=folder, delete=False) as file:
        temp = Path(file.name)
        try:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            temp.replace(target)
        finally:
            temp.unlink(missing_ok=True)
