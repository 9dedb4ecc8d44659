"""What the captioner is asked: texts from files, and which of them a sample gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from curation.errors import ConfigError
from curation.records import SampleKind, stable_id
from curation.stage import check_template
from curation.storage import open_storage

Length = Literal["short", "medium", "long"]
KINDS: tuple[SampleKind, ...] = ("image", "clip")
_DRAWS = 16**12


@dataclass(frozen=True)
class Prompts:
    """The texts of a folder; they travel with the stage, so workers need no such folder.

    Attributes:
        texts: File name without suffix -> text with places to fill in.
    """

    texts: Mapping[str, str]

    def text(self, kind: SampleKind, length: Length, *, structured: bool, **fields: object) -> str:
        """The question about one sample."""
        names = [f"{kind}-{length}", *(["structured"] if structured else [])]
        return "\n".join(self.texts[name].format(**fields) for name in names)

    @property
    def digest(self) -> str:
        """Changes with every letter of the texts."""
        return stable_id(*sorted(self.texts.items()))


def load_prompts(folder: str | None, lengths: Mapping[Length, float], *, structured: bool) -> Prompts:
    """Read the prompts that these settings ask for, from `folder`, which may be a URL, or from ours.

    Raises:
        ConfigError: a file is missing, or names a place that can't be filled in.
    """
    names = [f"{kind}-{length}" for kind in KINDS for length in sorted(lengths)]
    texts = {name: _read(folder, name) for name in [*names, *(["structured"] if structured else [])]}
    for name, text in texts.items():
        try:
            check_template(f"{name}.txt", text, num_frames=1, seconds=1.0, language="English")
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return Prompts(texts)


def _read(folder: str | None, name: str) -> str:
    try:
        if folder is not None and "://" in folder:
            return _read_object(folder, name)
        root: Traversable = Path(folder) if folder else files("curation.captioner").joinpath("prompts")
        return root.joinpath(f"{name}.txt").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        place = folder or "curation/captioner/prompts"
        raise ConfigError(f"cannot read the prompt {place}/{name}.txt: {error}") from error


def _read_object(folder: str, name: str) -> str:
    data = open_storage(folder).read(f"{name}.txt")
    if data is None:
        raise FileNotFoundError("there is no such object")
    return data.decode().replace("\r\n", "\n").strip()


def drawn_length(sample_id: str, lengths: Mapping[Length, float], seed: int) -> Length:
    """The length that a sample's caption should have: drawn by weight, always the same for a sample."""
    known = sorted((length, weight) for length, weight in lengths.items() if weight > 0)
    point = int(stable_id("length", seed, sample_id)[:12], 16) / _DRAWS * sum(weight for _, weight in known)
    for length, weight in known:
        point -= weight
        if point < 0:
            return length
    return known[-1][0]
