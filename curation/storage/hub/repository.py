"""A folder of a data set on the Hub as a storage to read from, always at one commit.

An object's version is the SHA-256 of its content where the Hub keeps it as a large file, and Git's hash of it
else: a commit that leaves a file alone leaves its version alone. Files are read by HTTP ranges from the Hub's
download address, which takes many more requests than its API does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any, NoReturn
from urllib.parse import quote

import pyarrow as pa

from curation.errors import ConfigError, WriteConflict
from curation.storage.base import ABSENT, Listed
from curation.storage.hub.faults import named_hub_faults, patiently
from curation.storage.hub.place import NO_OUTPUT, REPLY_TIMEOUT_S, HubPlace, commit_of, hub, place_of
from curation.storage.object_file import Fetched
from curation.storage.remote import RemoteStorage

_NO_SUCH_RANGE = 416
"""HTTP status of a range of an empty file."""
_LISTED = pa.schema([("key", pa.string()), ("size_bytes", pa.int64()), ("etag", pa.string())])


class HubStorage(RemoteStorage):
    """Files below a folder of a data set."""

    compares_versions = True  # there is nothing to compare: it takes no writes

    def __init__(self, url: str) -> None:
        """`url` as `place_of` reads it.

        Raises:
            ConfigError: it names no data set.
        """
        place = place_of(url)
        self._files = HubFiles(place)
        super().__init__(place.url, place.prefix, self._files)

    def list(self, prefix: str) -> list[Listed]:
        rows = (row for batch in self.batches(prefix) for row in batch.to_pylist())
        return sorted((Listed(*row.values()) for row in rows), key=lambda item: item.key)

    def batches(self, prefix: str) -> Iterator[pa.RecordBatch]:
        """Files below the folder `prefix`, in no order: `key`, `size_bytes`, `etag`."""
        for page in self._files.pages(self._path(prefix)):
            rows = [
                {"key": self._key(file.path), "size_bytes": file.size, "etag": etag_of(file)} for file in page
            ]
            yield pa.RecordBatch.from_pylist(rows, _LISTED)

    def write(self, key: str, data: bytes, expect: str | None = None) -> None:
        self._refuse()

    def creating(self, key: str) -> AbstractContextManager[IO[bytes]]:
        self._refuse()

    def delete(self, key: str) -> None:
        self._refuse()

    def exclusive(self, say: Callable[[str], None] | None = None) -> AbstractContextManager[None]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(f"{self.root}: {NO_OUTPUT}")


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
        answer = self._download(path, wanted)
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
        """What `get` says of the whole file, for one byte of it."""
        return dict(self.get(path, {"range": (0, 1)}).meta)

    def read(self, path: str) -> tuple[bytes | None, str]:
        """The file and its version; (None, ABSENT) where there is none."""
        try:
            found = self.get(path)
        except FileNotFoundError:
            return None, ABSENT
        return found.data, found.meta["e_tag"]

    def pages(self, folder: str) -> Iterator[Sequence[Any]]:
        """The files below a folder, as the Hub's client has them, by pages; none where there is no folder.

        That client's own listing waits for ever for a Hub that falls silent, and gives up after 23 s on one
        that is out of reach.
        """
        from huggingface_hub import hf_api

        file_of: Any = hf_api.RepoFile
        top = f"{hub().endpoint}/api/datasets/{self.place.repository}/tree/{commit_of(self.place)}"
        url: str | None = f"{top}/{quote(folder, safe='')}".rstrip("/") + "?recursive=true"
        while url is not None:
            try:
                with named_hub_faults(self._url(folder)):
                    answer = self._ask(url, {})
                    found = [file_of(**item) for item in answer.json() if item["type"] == "file"]
            except FileNotFoundError:
                return
            if found:
                yield found
            url = answer.links.get("next", {}).get("url")

    def _download(self, path: str, headers: Mapping[str, str]) -> Any:
        from huggingface_hub import hf_hub_url

        commit = commit_of(self.place)
        url = hf_hub_url(self.place.repository, path, repo_type="dataset", revision=commit)
        # Compressed bytes would be of another number, and ranges of them of no use.
        with named_hub_faults(self._url(path)):
            return self._ask(url, {"Accept-Encoding": "identity", **headers})

    def _ask(self, url: str, headers: Mapping[str, str]) -> Any:
        """The answer to a GET."""
        from huggingface_hub import get_session
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
        )

        def ask() -> Any:
            answer = get_session().get(
                url, headers={**build_hf_headers(), **headers}, timeout=REPLY_TIMEOUT_S
            )
            if answer.status_code != _NO_SUCH_RANGE:
                hf_raise_for_status(answer)
            return answer

        return patiently(ask)

    def _url(self, path: str) -> str:
        return f"{self.place.repository_url}/{path}".rstrip("/")


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
