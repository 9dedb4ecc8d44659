"""The cards of a page: each is a button with pictures of a sample, and opens what is known about it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from curation.ledger import Ledger
from curation.pipeline import Pipeline
from curation.report.gallery.known import KnownSample, known_samples
from curation.report.gallery.samples import Border, Gallery, LocatedSample, Near
from curation.report.gallery.stored import read_pictures


@dataclass(frozen=True)
class Card:
    """A sample as one button of the page.

    Attributes:
        known: What its dialog tells.
        value: What was measured of it where it is near a threshold, as text.
        pictures: JPEG files in base64; none where the page has shown them before, as `num_pictures` tells.
        num_pictures: Pictures that the page has of it.
    """

    known: KnownSample
    value: str
    pictures: list[str]
    num_pictures: int


@dataclass(frozen=True)
class Side:
    """The samples on one side of a threshold.

    Attributes:
        word: Where they are: "just below" or "just above".
        passed: Whether the threshold lets them through.
        number: How many there are on this side in all.
        cards: Those that are shown, in the order of their values.
    """

    word: str
    passed: bool
    number: int
    cards: list[Card]


@dataclass(frozen=True)
class BorderView:
    """A threshold with what stands on its two sides."""

    border: Border
    sides: list[Side]


@dataclass
class Album:
    """Makes cards, and gives the pictures of a sample with the first of its cards alone."""

    known: dict[str, KnownSample]
    pictures: dict[str, list[str]]
    shown: set[str] = field(default_factory=set)

    def cards(self, samples: Iterable[LocatedSample]) -> list[Card]:
        """Cards of the samples that are known."""
        return [self.card(one) for one in samples if one.sample.sample_id in self.known]

    def card(self, found: LocatedSample, value: str = "") -> Card:
        """A card of a sample that is known."""
        sample_id = found.sample.sample_id
        pictures = self.pictures.get(sample_id, [])
        is_first = sample_id not in self.shown
        self.shown.add(sample_id)
        return Card(self.known[sample_id], value, pictures if is_first else [], len(pictures))

    def border(self, border: Border) -> BorderView:
        """A threshold with its two sides; lower values come first."""
        rejected = self._near(border.rejected), border.num_rejected, False
        passed = self._near(border.passed), border.num_passed, True
        lower, upper = (passed, rejected) if border.sign == "≤" else (rejected, passed)
        sides = [
            Side(word, is_passed, number, cards)
            for word, (cards, number, is_passed) in zip(
                ("just below", "just above"), (lower, upper), strict=True
            )
        ]
        return BorderView(border, sides)

    def _near(self, found: Sequence[Near]) -> list[Card]:
        known = [near for near in found if near.found.sample.sample_id in self.known]
        in_order = sorted(known, key=lambda near: near.value)
        return [self.card(near.found, f"{near.value:.4g}") for near in in_order]


def album_of(ledger: Ledger, pipeline: Pipeline, gallery: Gallery) -> Album:
    """The samples of the gallery with the pictures that are kept, or with thumbnails that a step made."""
    known = known_samples(ledger, pipeline, gallery.samples())
    kept = read_pictures(ledger.storage)
    pictures = {}
    for sample_id, one in known.items():
        found = kept[sample_id].pictures if sample_id in kept else ()
        files = found or tuple(filter(None, (one.thumbnail,)))
        pictures[sample_id] = [base64.b64encode(picture).decode() for picture in files]
    return Album(known, pictures)
