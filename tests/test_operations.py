"""docs/operations.md tells what an operator sees of every fault: all that the program says."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from datasets_media import ROOT

PAGE = " ".join((ROOT / "docs/operations.md").read_text().split())
PLACES = (
    "curation/execution",
    "curation/storage",
    "curation/errors",
    "curation/ingest/reach.py",
    "captioner",
)
"""Where machines, workers, inputs and outputs are met. What a configuration lacks is told by other pages."""
ERRORS = frozenset(
    (
        "DeviceMemoryFault",
        "Died",
        "EnvironmentFault",
        "LedgerError",
        "MissingDependencyError",
        "PoisonSource",
        "StorageError",
        "Unreachable",
        "WorkerError",
        "WriteConflict",
    )
)
SAYING = ("curation/execution/driver", "curation/execution/models")
"""Where what a run says on its way is about faults."""
NUM_WORDS = 4
"""So many words tell a sentence from the others."""


def template(text: ast.expr) -> str:
    """The text of a message, with `{}` for what is filled in."""
    match text:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=parts):
            return "".join(map(template, parts))
        case ast.BinOp(left=left, right=right):
            return template(left) + template(right)
    return "{}"


def messages() -> Iterator[tuple[str, str]]:
    """File, and the text of each message about a fault."""
    for place in PLACES:
        files = sorted((ROOT / place).rglob("*.py")) or [ROOT / place]
        for path in files:
            name = path.relative_to(ROOT).as_posix()
            for call in ast.walk(ast.parse(path.read_text())):
                if not isinstance(call, ast.Call) or not call.args:
                    continue
                called = ast.unparse(call.func)
                says = called.endswith("progress.say") and name.startswith(SAYING)
                if says or called in ERRORS:
                    yield name, template(call.args[0])


def beginning(message: str) -> str | None:
    """The first words that are the message's own; None if it only passes on what another one says."""
    for part in message.split("{}"):
        words = part.split()
        if len(words) >= NUM_WORDS - 1:
            return " ".join(words[:NUM_WORDS]).strip(" (;:,.")
    return None


FAULTS = sorted({(name, words) for name, text in messages() if (words := beginning(text)) is not None})


@pytest.mark.parametrize(("name", "words"), FAULTS)
def test_every_fault_is_told(name: str, words: str) -> None:
    assert words in PAGE


def test_faults_are_found() -> None:
    """One of each way in which the program tells of a fault, as they stand in its code."""
    expected = {
        ("curation/execution/cluster/results.py", "its node went down"),
        ("curation/execution/driver/decode_workers.py", "a worker died before"),
        ("curation/execution/driver/schedule.py", "killed its worker"),
        ("curation/ingest/reach.py", "is away: neither"),
        ("curation/storage/local.py", "is a folder where"),
    }
    assert expected <= set(FAULTS)
