"""A folder of a data set on the Hub as a storage to read from, always at one commit.

An object's version is the SHA-256 of its content where the Hub keeps it as a large file, and Git's hash of it
else: a commit that leaves a file alone leaves its version alone. Files are read by HTTP ranges from the Hub's
download address, which takes many more requests than its API does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import pyarrow as pa

from curation.errors import ConfigError, WriteConflict
from curation.storage.base import ABSENT, Listed, ignore
from curation.storage.buckets.client import Fetched
from curation.storage.buckets.object_file import ObjectFile
from curation.storage.hub.faults import named_hub_faults, patiently
from curation.storage.hub.place import NO_OUTPUT, HubPlace, commit_of, hub, place_of
from curation.storage.scratch import copied

_LISTED_TOGETHER = 10_000
"""Files of a listing that become a batch."""
_SILENCE_S = 30.0
"""Longest silence of a server in the middle of an answer."""
_NO_SUCH_RANGE = 416
"""HTTP status of a range of an empty file."""
_LISTED = pa.schema([("key", pa.string()), ("size_bytes", pa.int64()), ("etag", pa.string())])


class HubStorage:
    """Files below a folder of a data set. Holds no connection, so that it can be sent to workers."""

    is_local = False
    compares_versions = True  # there is nothing to compare: it takes no writes

    def __init__(self, url: str) -> None:
        """`url` as `place_of` reads it.

        Raises:
            ConfigError: it names no data set.
        """
        self._place = place_of(url)
        self._files = HubFiles(self._place)
        self.root = self._place.url

    def list(self, prefix: str) -> list[Listed]:
        rows = (row for batch in self.batches(prefix) for row in batch.to_pylist())
        return sorted((Listed(*row.values()) for row in rows), key=lambda item: item.key)

    def batches(self, prefix: str) -> Iterator[pa.RecordBatch]:
        """Files below the folder `prefix`, in no order: `key`, `size_bytes`, `etag`."""
        skipped = len(f"{self._place.prefix}/") if self._place.prefix else 0
        rows: list[dict[str, Any]] = []
        for file in self._tree(self._path(prefix)):
            rows.append({"key": file.path[skipped:], "size_bytes": file.size, "etag": etag_of(file)})
            if len(rows) == _LISTED_TOGETHER:
                yield pa.RecordBatch.from_pylist(rows, _LISTED)
                rows = []
        if rows:
            yield pa.RecordBatch.from_pylist(rows, _LISTED)

    def find(self, key: str) -> Listed | None:
        place, path = self._place, self._path(key)
        commit = commit_of(place)
        with named_hub_faults(self._url(key)):
            found = patiently(
                lambda: hub().get_paths_info(place.repository, [path], revision=commit, repo_type="dataset")
            )
        files = [file for file in found if file.path == path and hasattr(file, "blob_id")]
        return Listed(key, files[0].size, etag_of(files[0])) if files else None

    def open(self, key: str, etag: str | None = None, on_fetch: Callable[[int], None] = ignore) -> IO[bytes]:
        path, url = self._path(key), self._url(key)
        return ObjectFile(self._files, path, url, etag, on_fetch)  # type: ignore[return-value]

    def leftovers(self, prefix: str) -> tuple[str, ...]:
        return ()

    def read(self, key: str) -> bytes | None:
        return self.read_versioned(key)[0]

    def read_versioned(self, key: str) -> tuple[bytes | None, str]:
        try:
            found = self._files.get(self._path(key))
        except FileNotFoundError:
            return None, ABSENT
        return found.bytes(), found.meta["e_tag"]

    def write(self, key: str, data: bytes, expect: str | None = None) -> None:
        self._refuse()

    def creating(self, key: str) -> AbstractContextManager[IO[bytes]]:
        self._refuse()

    def delete(self, key: str) -> None:
        self._refuse()

    @contextmanager
    def local_path(self, key: str) -> Iterator[Path]:
        with self.open(key) as file, copied(file) as path:
            yield path

    def exclusive(self, say: Callable[[str], None] | None = None) -> AbstractContextManager[None]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(f"{self.root}: {NO_OUTPUT}")

    def _tree(self, top: str) -> Iterator[Any]:
        """The files below a folder of the data set; none where there is no such folder."""
        place, commit = self._place, commit_of(self._place)
        try:
            with named_hub_faults(f"{place.repository_url}/{top}".rstrip("/")):
                # The client repeats what fails of a listing by itself, page by page.
                for item in hub().list_repo_tree(
                    place.repository, top or None, recursive=True, revision=commit, repo_type="dataset"
                ):
                    if hasattr(item, "blob_id"):
                        yield item
        except FileNotFoundError:
            return

    def _path(self, key: str) -> str:
        return f"{self._place.prefix}/{key}" if self._place.prefix and key else self._place.prefix or key

    def _url(self, key: str) -> str:
        return f"{self.root}/{key}"


@dataclass(frozen=True)
class HubFiles:
    """The files of a data set by their paths. Answers as a store of obstore does, for `ObjectFile`."""

    place: HubPlace

    def get(self, path: str, options: Mapping[str, Any] | None = None) -> Fetched:
        """The file, or its `range` (start, end), provided that it is of the version `if_match`.

        Raises:
            FileNotFoundError: there is none.
            WriteConflict: it is of another version.
            StorageError: the Hub refuses, or can't be reached.
        """
        asked = options or {}
        start, end = asked.get("range", (0, None))
        wanted = {} if end is None else {"Range": f"bytes={start}-{end - 1}"}
        answer = self._ask(path, wanted)
        etag = _etag_said(answer)
        if asked.get("if_match", etag) != etag:
            raise WriteConflict(f"{self._url(path)} is of another version")
        data = answer.content
        if answer.status_code == 206:
            size = int(answer.headers["Content-Range"].rpartition("/")[2])
        elif answer.status_code == _NO_SUCH_RANGE:
            size, data = 0, b""
        else:
            size, data = len(data), data[start:end]
        return Fetched({"size": size, "e_tag": etag}, data)

    def head(self, path: str) -> dict[str, Any]:
        """What `get` says of the whole file."""
        return dict(self.get(path).meta)

    def _ask(self, path: str, headers: Mapping[str, str]) -> Any:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
        )

        place, commit = self.place, commit_of(self.place)
        # Compressed bytes would be of another number, and ranges of them of no use.
        sent = {**build_hf_headers(), "Accept-Encoding": "identity", **headers}

        def ask() -> Any:
            url = hf_hub_url(place.repository, path, repo_type="dataset", revision=commit)
            answer = get_session().get(url, headers=sent, timeout=_SILENCE_S)
            if answer.status_code != _NO_SUCH_RANGE:
                hf_raise_for_status(answer)
            return answer

        with named_hub_faults(self._url(path)):
            return patiently(ask)

    def _url(self, path: str) -> str:
        return f"{self.place.repository_url}/{path}"


def etag_of(file: Any) -> str:
    """The version of a file as a listing of the Hub's has it."""
    return str(file.lfs.sha256 if file.lfs else file.blob_id)


def git_hash(data: bytes) -> str:
    """The version of a file that is not kept as a large one."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _etag_said(answer: Any) -> str:
    """The same as the answer to a download says it: of large files in the redirect to where they lie."""
    redirects = [one.headers["X-Linked-Etag"] for one in answer.history if "X-Linked-Etag" in one.headers]
    said = (
        next(iter(redirects), None) or answer.headers.get("X-Linked-Etag") or answer.headers.get("ETag", "")
    )
    return str(said).removeprefix("W/").strip('"')
