"""Brings files to a data set on the Hub: what differs, and nothing else.

    target = open_target(place_of("hf://datasets/org/name"), is_private=True)
    upload = Upload(target, message="Shards of 2026")
    upload.add_file("train-00000-of-00001.parquet", path, sha256)      # its bytes go now
    upload.add_text("README.md", b"...")
    url = upload.commit(is_stale=lambda name: name.endswith(".parquet"))

Readers see nothing of it before the last commit, unless there are so many files that one commit can't hold
them. What was uploaded before a process was ended is not sent again, as the Hub knows large files by their
SHA-256.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.errors import ConfigError, MissingDependencyError
from curation.storage.hub.faults import named_hub_faults, patiently
from curation.storage.hub.place import MAIN, REPLY_TIMEOUT_S, HubPlace, hub
from curation.storage.hub.repository import HubFiles, etag_of, git_hash

COMMIT_FILES = 1000
"""Files that a commit adds at most."""


@dataclass(frozen=True)
class Target:
    """A branch of a data set, as it was when it was opened.

    Attributes:
        place: Where it lies.
        is_new: Whether the data set was created.
        head: Its last commit.
        files: Path -> version, as `HubStorage` has it.
    """

    place: HubPlace
    is_new: bool
    head: str
    files: Mapping[str, str]

    @property
    def branch(self) -> str:
        """The branch's name."""
        return self.place.revision or MAIN


def open_target(place: HubPlace, *, is_private: bool) -> Target:
    """Open a data set to write to. It is created if there is none, and so is the branch.

    Raises:
        ConfigError: it is not as private as it is asked to be.
        MissingDependencyError: there is no token.
        StorageError: the Hub refuses, or can't be reached.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if not get_token():
        raise MissingDependencyError(
            f"{place.url}: the Hub wants a token that may write there; put it into HF_TOKEN, or log in by "
            "`hf auth login`"
        )
    name, api = place.repository, hub()
    with named_hub_faults(place.repository_url):
        try:
            info = patiently(lambda: api.dataset_info(name, timeout=REPLY_TIMEOUT_S))
        except RepositoryNotFoundError:
            api.create_repo(name, repo_type="dataset", private=is_private or None, exist_ok=True)
            info, is_new = patiently(lambda: api.dataset_info(name, timeout=REPLY_TIMEOUT_S)), True
        else:
            is_new = False
        if is_private and not info.private:
            raise ConfigError(f"{place.repository_url} is there already, and public: --private can't hide it")
        if place.revision is not None:
            api.create_branch(name, branch=place.revision, repo_type="dataset", exist_ok=True)
            info = patiently(lambda: api.dataset_info(name, revision=place.revision, timeout=REPLY_TIMEOUT_S))
    pages = HubFiles(HubPlace(name, str(info.sha), "")).pages("")
    files = {file.path: etag_of(file) for page in pages for file in page}
    return Target(place, is_new, str(info.sha), files)


class Upload:
    """Files on their way to a data set.

    Attributes:
        num_files, num_bytes: Of what was sent.
        num_same: Files that were there already.
    """

    def __init__(self, target: Target, message: str) -> None:
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        disable_progress_bars()  # whoever publishes says what is sent
        self._target = target
        self._message = message
        self._additions: list[Any] = []
        self._names: set[str] = set()
        self.num_files = self.num_bytes = self.num_same = 0

    def has(self, name: str, sha256: str) -> bool:
        """Whether the data set has a large file of this content; it is kept if it has."""
        self._names.add(name)
        is_same = self._target.files.get(name) == sha256
        self.num_same += is_same
        return is_same

    def add_file(self, name: str, path: Path) -> str:
        """Send a large file now, to be committed later; its SHA-256 as it was sent.

        Raises: as `commit`.
        """
        from huggingface_hub import CommitOperationAdd

        addition = CommitOperationAdd(name, str(path))
        with self._faults():
            hub().preupload_lfs_files(
                self._target.place.repository, [addition], repo_type="dataset", revision=self._target.branch
            )
        if isinstance(addition.path_or_fileobj, str):
            # The Hub takes it for a small file: it goes with the commit, when `path` may be gone.
            addition.path_or_fileobj = path.read_bytes()
        self._note(addition, name)
        return str(addition.upload_info.sha256.hex())

    def add_text(self, name: str, data: bytes) -> None:
        """Send a small file with the last commit, unless it is there."""
        from huggingface_hub import CommitOperationAdd

        if self._target.files.get(name) == git_hash(data):
            self._names.add(name)
            self.num_same += 1
        else:
            self._note(CommitOperationAdd(name, data), name)

    def commit(self, is_stale: Callable[[str], bool]) -> str:
        """Commit what was added, and remove the other files for which `is_stale` is true; the commit's URL.

        Raises:
            StorageError: the Hub refuses, or can't be reached; or somebody else has committed in between.
        """
        from huggingface_hub import CommitOperationDelete

        stale = [name for name in self._target.files if name not in self._names and is_stale(name)]
        operations = [*self._additions, *(CommitOperationDelete(name) for name in sorted(stale))]
        head, url = self._target.head, f"{self._page}/commit/{self._target.head}"
        parts = [operations[at : at + COMMIT_FILES] for at in range(0, len(operations), COMMIT_FILES)]
        for number, part in enumerate(parts, 1):
            share = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
            with self._faults():
                done = hub().create_commit(
                    self._target.place.repository,
                    part,
                    commit_message=f"{self._message}{share}",
                    repo_type="dataset",
                    revision=self._target.branch,
                    parent_commit=head,
                )
            head, url = done.oid, str(done.commit_url)
        return url

    @property
    def _page(self) -> str:
        return f"{hub().endpoint}/datasets/{self._target.place.repository}"

    def _note(self, addition: Any, name: str) -> None:
        self._additions.append(addition)
        self._names.add(name)
        self.num_files += 1
        self.num_bytes += addition.upload_info.size

    def _faults(self) -> Any:
        return named_hub_faults(self._target.place.repository_url)
