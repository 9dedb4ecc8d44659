"""What lies in the inputs and is no source: counted by kind, and named where somebody should look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from curation.errors.visible import on_one_line
from curation.ingest.containers.reader import Inventory
from curation.ingest.inputs import FoundFolder
from curation.ingest.locator import printable
from curation.ingest.metadata import PROBLEM
from curation.ingest.suffixes import suffix_of
from curation.storage.hub.place import commit_of, is_on_hub, place_of

NO_SUFFIX = "no suffix"
HIDDEN = "hidden"
OUTPUTS = "outputs of runs"
MAX_KINDS = 12
MAX_NAMES = 5
"""Names that are said in a line."""
MAX_RECORDED = 1000
"""Names of a kind that go to run.json."""


@dataclass
class Leftovers:
    """What a listing left out.

    Attributes:
        kinds: Suffix -> number of files; also members of tars, and files of runs' outputs.
        hidden: Paths of hidden files and folders.
        not_files: Path -> what it is.
        repeated: Path -> path under which the same folder or file is read.
        metadata: What of the metadata in containers could not be kept -> how many times.
        num_bad_metadata: Sources that came with something that could not be kept.
        commits: Data set on the Hub -> the commit that is read.
        num_retracted: Sources that lie in the inputs and were retracted, and containers.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    hidden: list[str] = field(default_factory=list)
    not_files: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, str] = field(default_factory=dict)
    metadata: Counter[str] = field(default_factory=Counter)
    num_bad_metadata: int = 0
    commits: dict[str, str] = field(default_factory=dict)
    num_retracted: int = 0

    def add_inventory(self, key: str, inventory: Inventory) -> None:
        """Count what a container holds beside its sources."""
        self.metadata.update(inventory.left_out)
        if inventory.num_ignored:
            suffix = suffix_of(key)
            is_whole = not inventory.entries.num_rows and inventory.num_ignored == 1
            self.kinds[suffix if is_whole else f"in {suffix} files"] += inventory.num_ignored

    def add_survey(self, folder: FoundFolder) -> None:
        """Note what is no file to read, and what the input was read at."""
        if is_on_hub(folder.root):
            place = place_of(folder.root)
            self.commits[place.repository_url] = commit_of(place)
        found = folder.survey
        num_inside = found.files.num_rows - folder.files.num_rows
        if num_inside:
            self.kinds[OUTPUTS] += num_inside

        def named(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
            for key in sorted(keys):
                if not key.startswith(folder.outputs):
                    yield key, printable(folder.path(key) if key else folder.root or "/")

        self.hidden += [path for _, path in named(found.hidden)]
        self.not_files |= {path: found.not_files[key] for key, path in named(found.not_files)}
        self.repeated |= {path: printable(found.repeated[key]) for key, path in named(found.repeated)}

    def lines(self) -> list[str]:
        """What people should know, a line per matter."""
        kinds = [f"{kind} {number}" for kind, number in self._ranked()]
        more = len(kinds) - MAX_KINDS
        if more > 0:
            rest = sum(number for _, number in self._ranked()[MAX_KINDS:])
            kinds = [*kinds[:MAX_KINDS], f"{more} other suffixes {rest}"]
        if self.hidden:
            kinds.append(f"{HIDDEN} {len(self.hidden)} ({some_names(self.hidden)})")
        metadata = (f"{what} {number}" for what, number in self.metadata.most_common())
        num_bad = self.num_bad_metadata
        said = {
            "commits": some_names(f"{url} at {commit}" for url, commit in self.commits.items()),
            "left out": ", ".join(kinds),
            "no files": some_names(f"{path} ({what})" for path, what in self.not_files.items()),
            "read once": some_names(
                f"{path}, which is named twice" if path == first else f"{path} is {first}"
                for path, first in self.repeated.items()
            ),
            "not carried along": some_names(metadata),
            "retracted": f"{self.num_retracted} that are still in the inputs" if self.num_retracted else "",
            "metadata errors": f"of {num_bad} sources, {PROBLEM} in the table" if num_bad else "",
        }
        return [f"{name}: {text}" for name, text in said.items() if text]

    def record(self) -> dict[str, Any]:
        """For run.json and the report; lists of paths are cut."""
        return {
            "lines": self.lines(),
            "left_out": dict(self._ranked()),
            "num_hidden": len(self.hidden),
            "hidden": self.hidden[:MAX_RECORDED],
            "num_not_files": len(self.not_files),
            "not_files": dict(islice(self.not_files.items(), MAX_RECORDED)),
            "num_repeated": len(self.repeated),
            "repeated": dict(islice(self.repeated.items(), MAX_RECORDED)),
            "not_carried": dict(self.metadata.most_common()),
            "num_bad_metadata": self.num_bad_metadata,
            "commits": self.commits,
            "num_retracted": self.num_retracted,
        }

    def _ranked(self) -> list[tuple[str, int]]:
        return sorted(self.kinds.items(), key=lambda pair: (-pair[1], pair[0]))


def some_names(names: Iterable[str], number: int | None = None) -> str:
    """The first names, and how many more there are: of `number`, if not all are given."""
    known = list(names)
    more = (number or len(known)) - MAX_NAMES
    return on_one_line(", ".join(known[:MAX_NAMES])) + (f" and {more} more" if more > 0 else "")
