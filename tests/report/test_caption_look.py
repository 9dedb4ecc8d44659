"""What a report says of captions: phrases against a plain count, with bounded memory."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from curation.ledger.columns import KEPT
from curation.ledger.verdicts import verdict_groups
from curation.report.page.captions import MAX_SHOWN, PhraseCounts, look_at_captions
from random_ledgers import a_pipeline, random_ledger


def texts(number: int) -> list[list[str]]:
    """Random words, and now and then a sentence that comes again and again."""
    draw = random.Random(1)
    often = ["the", "image", "shows", "a", "cat"]
    return [
        [*(often if draw.random() < 0.3 else []), *(f"w{draw.randrange(400)}" for _ in range(20))]
        for _ in range(number)
    ]


def counted(captions: list[list[str]]) -> Counter[str]:
    """Each phrase of three words, once per caption."""
    found: Counter[str] = Counter()
    for words in captions:
        found.update({" ".join(words[place : place + 3]) for place in range(len(words) - 2)})
    return found


def test_phrases_are_counted_once_per_caption() -> None:
    captions = [*texts(200), ["a", "b", "c", "a", "b", "c"]]
    phrases = PhraseCounts()
    for words in captions:
        phrases.add(words)
    expected = [(text, number) for text, number in counted(captions).items() if number > 1]
    expected.sort(key=lambda item: (-item[1], item[0].split()))
    assert phrases.commonest(MAX_SHOWN) == expected[:MAX_SHOWN]
    assert phrases.missed == 0


def test_with_little_memory_counts_are_too_low_by_what_is_said_at_most() -> None:
    captions, phrases = texts(3000), PhraseCounts(max_phrases=1000)
    for words in captions:
        phrases.add(words)
        assert len(phrases.counts) <= 1000
    exact = counted(captions)
    assert phrases.missed > 0
    for text, number in phrases.commonest(3):
        assert exact[text] - phrases.missed <= number <= exact[text]
    assert {text for text, _ in phrases.commonest(3)} == {
        "the image shows", "image shows a", "shows a cat",
    }  # fmt: skip


def test_captions_of_what_the_filters_keep_are_read(tmp_path: Path) -> None:
    pipeline = a_pipeline(tmp_path)
    step = pipeline.producer("caption")
    assert step is not None
    num_read = 0
    for seed in range(4):
        ledger = random_ledger(pipeline, tmp_path / str(seed), seed, contradictions=False)
        expected: list[str] = []
        for group in verdict_groups(ledger, pipeline, columns={step.key: ("caption",)}):
            rows = {row["sample_id"]: row["caption"] for row in group.rows[step.key].to_pylist()}
            for kind, leaves in group.leaves.items():
                outcome = group.samples[kind].verdicts.outcome
                ids = zip(leaves.sample_id.to_pylist(), leaves.sample, strict=True)
                expected += filter(None, (rows.get(one) for one, sample in ids if outcome[sample] == KEPT))
        look = look_at_captions(ledger, pipeline)
        assert (look.num_read if look else 0) == len(expected)
        num_read += len(expected)
        if look:
            assert not look.is_part
            assert sorted(look.lengths.tolist()) == sorted(len(text.split()) for text in expected)
            assert look_at_captions(ledger, pipeline, max_captions=1) is not None
    assert num_read > 10
