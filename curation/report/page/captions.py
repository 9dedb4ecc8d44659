"""A look at captions: how long they are, and the phrases that come again and again.

Texts are read of some units alone, drawn by their numbers, until there are enough captions; so this takes no
longer over ten million captions than over ten thousand.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.ledger import Ledger
from curation.ledger.columns import KEPT
from curation.ledger.verdicts import verdict_groups
from curation.pipeline import Pipeline
from curation.pipeline.rules import Step
from curation.records import stable_id

MAX_CAPTIONS = 10_000
"""Captions that are read at least, where there are so many."""
NUM_WORDS = 3
"""Words of a phrase."""
MAX_PHRASES = 200_000
"""Phrases that are counted at the same time."""
MAX_SHOWN = 12
_UNITS_AT_A_TIME = 8
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['\u2019][^\W_]+)?")
"""A word, or one character of a script that puts no spaces between words."""


@dataclass
class PhraseCounts:
    """In how many captions each phrase stands, with bounded memory.

    Beyond `max_phrases` the rarer half is dropped. A phrase that comes again starts from nothing, so that a
    count may be too low, by `missed` at most (Manku and Motwani, "Approximate frequency counts over data
    streams", 2002, count with the same bound).
    """

    max_phrases: int = MAX_PHRASES
    counts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    missed: int = 0

    def add(self, words: list[str]) -> None:
        """Count the phrases of a caption, each once."""
        self.counts.update({*zip(*(words[first:] for first in range(NUM_WORDS)), strict=False)})
        if len(self.counts) > self.max_phrases:
            in_order = self.counts.most_common()
            kept = self.max_phrases // 2
            self.missed += in_order[kept][1]
            self.counts = Counter(dict(in_order[:kept]))

    def commonest(self, number: int) -> list[tuple[str, int]]:
        """Phrases that stand in more than one caption, the commonest first, with their counts."""
        found = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:number]
        return [(" ".join(words), count) for words, count in found if count > 1]


@dataclass(frozen=True)
class CaptionLook:
    """Captions of kept and of rejected samples, as far as they were read.

    Attributes:
        num_read: Captions that were read.
        is_part: Whether there are more.
        lengths: int64 [N] words of each.
        openings: First words of captions, the commonest first, with the number of captions.
        phrases: The same of words anywhere.
        missed: How much the counts may be too low.
    """

    num_read: int
    is_part: bool
    lengths: NDArray[np.int64]
    openings: list[tuple[str, int]]
    phrases: list[tuple[str, int]]
    missed: int


def look_at_captions(
    ledger: Ledger, pipeline: Pipeline, max_captions: int = MAX_CAPTIONS
) -> CaptionLook | None:
    """What captions look like; None where there are none."""
    step = pipeline.producer("caption")
    if step is None or not step.is_bound:
        return None
    units = sorted(
        ledger.measured_units(step.name, step.fingerprint), key=lambda unit: stable_id("captions", unit)
    )
    lengths: list[int] = []
    openings, phrases = PhraseCounts(), PhraseCounts()
    read = 0
    for start in range(0, len(units), _UNITS_AT_A_TIME):
        some = sorted(units[start : start + _UNITS_AT_A_TIME])
        read += len(some)
        for caption in _captions(ledger, pipeline, step, some):
            words = [word.casefold() for word in _WORD.findall(caption)]
            lengths.append(len(words))
            openings.add(words[:NUM_WORDS])
            phrases.add(words)
        if len(lengths) >= max_captions:
            break
    if not lengths:
        return None
    return CaptionLook(
        len(lengths),
        read < len(units),
        np.array(lengths, np.int64),
        openings.commonest(MAX_SHOWN),
        phrases.commonest(MAX_SHOWN),
        max(openings.missed, phrases.missed),
    )


def _captions(ledger: Ledger, pipeline: Pipeline, step: Step, units: list[int]) -> Iterator[str]:
    """The captions in these units of samples that the filters keep."""
    for group in verdict_groups(ledger, pipeline, units=units, columns={step.key: ("caption",)}):
        for kind, leaves in group.leaves.items():
            passed = group.samples[kind].verdicts.outcome[leaves.sample] == KEPT
            rows = group.rows_of(step.key, leaves.sample_id.filter(pa.array(passed)))
            yield from filter(None, rows["caption"].to_pylist())
