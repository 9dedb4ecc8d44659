"""Votes to triplets: hand-made cases of every rule, ranks against pandas, documents that parse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from curation.errors import TokenizeError
from curation.tokenize_shards.documents.document import parse
from curation.tokenize_shards.documents.text import TextTokenizer
from curation.tokenize_shards.preference import CANDIDATES, Choice, PreferenceConfig, _ranks, choose
from datasets_media import curation

CONFIG = PreferenceConfig()


def chosen(*scores: list[float], **settings: Any) -> tuple[int, int] | str:
    choice = choose(np.array(scores, np.float64), PreferenceConfig(**settings))
    return choice if isinstance(choice, str) else (choice.chosen, choice.rejected)


def test_voters_who_agree() -> None:
    found = choose(np.array([[9, 5, 1], [0.3, 0.2, 0.1], [70, 50, 60]]), CONFIG)
    # Mean ranks by hand: 1, (2 + 2 + 3) / 3, (3 + 3 + 2) / 3.
    assert found == Choice(0, 2, 1.0, pytest.approx(8 / 3), agreement=1.0, num_voters=3)


def test_scales_of_voters_do_not_matter() -> None:
    assert chosen([1, 2, 3], [100, 900, 950], [-3, -2, -1]) == (2, 0)


def test_among_equal_candidates_the_one_put_first_more_often_is_taken() -> None:
    scores = [[3, 1, 2, 0], [2, 1, 3, 0], [2, 3, 1, 0]]
    # Mean ranks by hand: (1+2+2)/3, (3+3+1)/3, (2+1+3)/3, 4.
    assert chosen(*scores) == (0, 3)
    # The first three all have the mean rank 2; alone in front were 1 and 2, once each, 0 never.
    assert chosen([3, 4, 2, 1], [3, 3, 3, 1], [3, 2, 4, 1], [3, 3, 3, 1]) == (1, 3)


def test_equals_throughout_are_taken_by_order() -> None:
    assert chosen([2, 2, 1], [2, 2, 1], [2, 2, 1]) == (0, 2)
    assert chosen([2, 1, 1], [2, 1, 1], [2, 1, 1]) == (0, 1)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([[1, 2, 3], [1, 2, 3]], "too_few_voters"),
        ([[5, 5], [1, 1], [0, 0]], "all_equal"),
        ([[1, 2], [2, 1], [1, 1]], "all_equal"),
        # Only one voter of three has an opinion.
        ([[2, 1], [1, 1], [1, 1]], "voters_disagree"),
    ],
)
def test_prompts_without_a_choice(scores: list[list[float]], reason: str) -> None:
    assert chosen(*scores) == reason


def test_bounds_can_be_moved() -> None:
    assert chosen([2, 1], [1, 1], [1, 1], min_agreement=1 / 3) == (0, 1)
    assert chosen([2, 1], min_voters=1) == (0, 1)


def test_exactly_the_agreement_asked_for_is_enough() -> None:
    scores = [[2, 1], [2, 1], [2, 1], [1, 2], [1, 2]]
    assert chosen(*scores, min_agreement=0.6) == (0, 1)
    assert chosen(*scores, min_agreement=0.61) == "voters_disagree"


@given(arrays(np.float64, 6, elements=st.sampled_from([0.0, 1.0, 2.5, 3.0])))
def test_ranks_are_those_of_pandas(scores: np.ndarray) -> None:
    assert np.array_equal(_ranks(scores), pd.Series(scores).rank(ascending=False))


@given(arrays(np.float64, (4, 5), elements=st.integers(0, 9).map(float)))
def test_more_voters_like_chosen_better_and_order_of_voters_does_not_matter(scores: np.ndarray) -> None:
    found = choose(scores, CONFIG)
    assert choose(scores[::-1], CONFIG) == found
    if isinstance(found, Choice):
        assert (scores[:, found.chosen] > scores[:, found.rejected]).mean() >= 0.6
        assert found.chosen_rank < found.rejected_rank


def write(folder: Path, votes: list[dict[str, Any]], **changes: Any) -> tuple[Path, Path]:
    """Three candidates for each of two prompts, and votes on them."""
    rows = []
    for prompt in ("p0", "p1"):
        for number in range(3):
            grid = np.full((1, 2, 3), 100 * number + 7, "<u2")
            row = {"prompt_id": prompt, "prompt": f"a picture of {prompt}", "candidate_id": f"c{number}"}
            row |= {"codes": grid.tobytes(), "grid_t": 1, "grid_h": 2, "grid_w": 3}
            rows.append(row | (changes if (prompt, number) == ("p1", 2) else {}))
    pq.write_table(pa.Table.from_pylist(rows, schema=CANDIDATES), folder / "candidates.parquet")
    (folder / "votes.jsonl").write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    return folder / "candidates.parquet", folder / "votes.jsonl"


def votes_on(prompt: str, **voters: list[float]) -> list[dict[str, Any]]:
    return [
        {"prompt_id": prompt, "candidate_id": f"c{number}", "voter": voter, "score": float(score)}
        for voter, scores in voters.items()
        for number, score in enumerate(scores)
    ]


FINE = [
    *votes_on("p0", ann=[1, 5, 3], bob=[0, 9, 4], cid=[2, 3, 1]),
    *votes_on("p1", ann=[1, 5, 3], bob=[2, 9], cid=[2, 3, 1]),
]
"""On p1, bob has not scored all."""


def test_command_writes_triplets_as_tokens(tmp_path: Path, vocabulary: Path) -> None:
    candidates, votes = write(tmp_path, FINE)
    target = tmp_path / "triplets.parquet"
    said = curation("preference", candidates, votes, "--vocabulary", vocabulary, "--to", target)
    assert "triplets of 1 of 2 prompts" in said
    assert "too_few_voters 1" in said
    assert "1 voter had not scored all candidates" in said
    (row,) = pq.read_table(target).to_pylist()
    assert (row["prompt_id"], row["chosen_id"], row["rejected_id"]) == ("p0", "c1", "c0")
    assert (row["num_voters"], row["agreement"]) == (3, 1.0)
    # Mean ranks by hand: c1 was put first by all; c0 third, third, second.
    assert (row["chosen_rank"], row["rejected_rank"]) == (1.0, pytest.approx(8 / 3))
    tokenizer = TextTokenizer(vocabulary)
    for side, code in (("chosen", 107), ("rejected", 7)):
        document = parse(np.array(row[f"{side}_input_ids"], np.int32))
        assert tokenizer.decode(document.caption_ids) == "a picture of p0"
        assert tokenizer.decode(document.meta_ids) == "2*3"
        assert document.grid.tolist() == [[[code] * 3] * 2]
        assert row[f"{side}_codes"] == document.grid.astype("<u2").tobytes()
    before = target.read_bytes()
    curation("preference", candidates, votes, "--vocabulary", vocabulary, "--to", target)
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("extra", "changes", "message"),
    [
        (votes_on("p0", ann=[1]), {}, "ann scored c0 of prompt p0 twice"),
        (votes_on("p9", ann=[1]), {}, "prompt p9 has no candidate c0"),
        (votes_on("p0", eve=[1, 2, 3, 4]), {}, "prompt p0 has no candidate c3"),
        ([], {"candidate_id": "c1"}, "c1 of prompt p1 is there twice"),
        ([], {"codes": None}, "row 5 has no codes"),
    ],
)
def test_files_that_contradict_themselves(
    tmp_path: Path, vocabulary: Path, extra: list[dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    candidates, votes = write(tmp_path, [*FINE, *extra], **changes)
    target = tmp_path / "t.parquet"
    said = curation("preference", candidates, votes, "--vocabulary", vocabulary, "--to", target, code=2)
    assert message in said
    assert not target.exists()


def test_missing_files_and_columns_are_named(tmp_path: Path, vocabulary: Path) -> None:
    candidates, votes = write(tmp_path, FINE)
    options = ["--vocabulary", vocabulary, "--to", tmp_path / "t.parquet"]
    assert "no_such" in curation("preference", tmp_path / "no_such.parquet", votes, *options, code=2)
    said = curation("preference", candidates, candidates, *options, code=2)
    assert 'candidates.parquet: Field "voter" does not exist' in said


def test_candidates_that_are_no_grid(tmp_path: Path, vocabulary: Path) -> None:
    from curation.storage import open_storage
    from curation.tokenize_shards.preference import write_triplets

    fair = votes_on("p1", ann=[1, 5, 0], bob=[2, 9, 0], cid=[2, 3, 0])
    candidates, votes = write(tmp_path, fair, codes=b"12345")
    with pytest.raises(TokenizeError, match="5 bytes are no grid"):
        write_triplets(
            str(candidates), str(votes), open_storage(str(tmp_path)), "t", TextTokenizer(vocabulary), CONFIG
        )


def test_one_prompt_has_one_text(tmp_path: Path, vocabulary: Path) -> None:
    fair = votes_on("p1", ann=[1, 5, 0], bob=[2, 9, 0], cid=[2, 3, 0])
    candidates, votes = write(tmp_path, fair, prompt="something else")
    target = tmp_path / "t.parquet"
    said = curation("preference", candidates, votes, "--vocabulary", vocabulary, "--to", target, code=2)
    assert "two texts" in said
