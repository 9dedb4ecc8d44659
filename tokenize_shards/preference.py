"""Preference data: of several token grids for one prompt, the one that voters like best and worst.

Emu3 (section 2.5 of the paper) had three voters look at 8-10 samples per prompt and kept the triplets of
prompt, chosen and rejected as tokens. How ties and disagreement are settled is not published; ours:

- A voter counts for a prompt if they scored all of its candidates; scores become ranks, so that voters
  may use scales of their own. Equal scores share the mean of their ranks.
- Chosen is the candidate with the best mean rank, rejected the one with the worst. Among equals the one
  put first (or last) by more voters is taken, then the first by id: equals are equally good examples.
- A prompt is left out if fewer than `min_voters` count (`too_few_voters`), if all candidates have the
  same mean rank (`all_equal`), or if fewer than `min_agreement` of the voters put chosen strictly before
  rejected (`voters_disagree`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq
from pydantic import Field

from curation.errors import ConfigError, NoSuchObject
from curation.stage import StageConfig
from curation.storage import Storage, parquet, storage_of
from curation.tokenize_shards.documents.document import build
from curation.tokenize_shards.documents.text import TextTokenizer
from curation.tokenize_shards.shards.rows import grid_of

CANDIDATES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("candidate_id", pa.string()),
        ("codes", pa.binary()),
        ("grid_t", pa.int32()),
        ("grid_h", pa.int32()),
        ("grid_w", pa.int32()),
    ]
)
"""One token grid per row; `codes` are little-endian uint16, row-major [grid_t, grid_h, grid_w]."""
VOTES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("candidate_id", pa.string()),
        ("voter", pa.string()),
        ("score", pa.float64()),
    ]
)
"""One score per voter and candidate; more is better."""
TRIPLETS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("chosen_id", pa.string()),
        ("rejected_id", pa.string()),
        ("chosen_codes", pa.binary()),
        ("rejected_codes", pa.binary()),
        ("chosen_grid", pa.list_(pa.int32(), 3)),
        ("rejected_grid", pa.list_(pa.int32(), 3)),
        ("chosen_input_ids", pa.list_(pa.int32())),
        ("rejected_input_ids", pa.list_(pa.int32())),
        ("chosen_rank", pa.float32()),
        ("rejected_rank", pa.float32()),
        ("agreement", pa.float32()),
        ("num_voters", pa.int32()),
    ]
)


class PreferenceConfig(StageConfig):
    """Settings of the choice."""

    min_voters: Annotated[int, Field(ge=1)] = 3
    """Voters that must have scored all candidates of a prompt."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Share of these voters that must put the chosen candidate strictly before the rejected one."""
    image_meta: str = "{rows}*{cols}"
    """Text between the prompt and the tokens of a grid."""


@dataclass(frozen=True)
class Choice:
    """The best and the worst candidate of a prompt, by index, with their mean ranks (1 is best).

    Attributes:
        agreement: Share of the voters who put chosen strictly before rejected.
    """

    chosen: int
    rejected: int
    chosen_rank: float
    rejected_rank: float
    agreement: float
    num_voters: int


@dataclass
class PromptCounts:
    """What became of the prompts.

    Attributes:
        left_out: Reason -> number of prompts.
        num_partial_votes: Voters that were not counted for a prompt, as they had not scored all of it.
    """

    num_prompts: int = 0
    num_triplets: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    num_partial_votes: int = 0


def choose(scores: np.ndarray[Any, np.dtype[np.float64]], config: PreferenceConfig) -> Choice | str:
    """The choice that voters make, or the reason why there is none.

    Args:
        scores: [voters, candidates], more is better; only voters who scored every candidate.
        config: The settings.
    """
    if len(scores) < config.min_voters:
        return "too_few_voters"
    ranks = np.stack([_ranks(row) for row in scores])
    mean = ranks.mean(axis=0)
    if np.ptp(mean) < 1e-9:
        return "all_equal"
    firsts = (ranks == ranks.min(axis=1, keepdims=True)).sum(axis=0)
    lasts = (ranks == ranks.max(axis=1, keepdims=True)).sum(axis=0)
    numbers = range(len(mean))
    chosen = min(numbers, key=lambda number: (round(mean[number], 9), -firsts[number], number))
    rejected = min(numbers, key=lambda number: (-round(mean[number], 9), -lasts[number], number))
    agreement = float((ranks[:, chosen] < ranks[:, rejected]).mean())
    if agreement < config.min_agreement:
        return "voters_disagree"
    return Choice(
        chosen, rejected, float(mean[chosen]), float(mean[rejected]), agreement, num_voters=len(scores)
    )


def _ranks(scores: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """1 for the best; equal scores share the mean of their ranks."""
    better = (scores[None, :] > scores[:, None]).sum(axis=1)
    equal = (scores[None, :] == scores[:, None]).sum(axis=1)
    ranks: np.ndarray[Any, np.dtype[np.float64]] = better + (equal + 1) / 2
    return ranks


def write_triplets(
    candidates: str,
    votes: str,
    storage: Storage,
    key: str,
    tokenizer: TextTokenizer,
    config: PreferenceConfig,
) -> PromptCounts:
    """Read candidates and votes, write the triplets as one Parquet object, sorted by prompt.

    Args:
        candidates: Parquet file with the columns of `CANDIDATES`.
        votes: Parquet or JSON Lines file with the columns of `VOTES`.
        storage: Where to.
        key: Object below it.
        tokenizer: Turns prompts into ids.
        config: The settings.

    Raises:
        ConfigError: a file is missing, lacks a column, or its rows contradict each other.
        TokenizeError: a candidate's codes are no grid.
    """
    counts = PromptCounts()
    cast = _votes_by_prompt(_read(votes, VOTES))
    rows = list(_triplets(_read(candidates, CANDIDATES), cast, tokenizer, config, counts))
    storage.write(key, parquet.to_bytes(pa.Table.from_pylist(rows, schema=TRIPLETS)))
    return counts


def _read(path: str, schema: pa.Schema) -> list[dict[str, Any]]:
    storage, key = storage_of(path)
    try:
        with storage.open(key) as file:
            # On this thread: a command that ends while Arrow's readers are still about is aborted.
            if path.endswith((".json", ".jsonl")):
                table = pj.read_json(file, pj.ReadOptions(use_threads=False))
            else:
                table = pq.ParquetFile(file, pre_buffer=False).read(use_threads=False)
        rows: list[dict[str, Any]] = table.select(schema.names).cast(schema).to_pylist()
    except (OSError, KeyError, pa.ArrowException, NoSuchObject) as error:
        raise ConfigError(f"{path}: {_first_line(error)}") from error
    for number, row in enumerate(rows):
        empty = [name for name, value in row.items() if value is None]
        if empty:
            raise ConfigError(f"{path}: row {number} has no {', '.join(empty)}")
    return rows


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].strip("'")


Votes = Mapping[str, Mapping[str, Mapping[str, float]]]
"""prompt -> voter -> candidate -> score"""


def _votes_by_prompt(rows: Iterable[Mapping[str, Any]]) -> Votes:
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        scores = found[row["prompt_id"]][row["voter"]]
        if row["candidate_id"] in scores:
            raise ConfigError(
                f"votes: {row['voter']} scored {row['candidate_id']} of prompt {row['prompt_id']} twice"
            )
        if not np.isfinite(row["score"]):
            raise ConfigError(f"votes: {row['voter']} gave {row['candidate_id']} the score {row['score']}")
        scores[row["candidate_id"]] = row["score"]
    return found


def _triplets(
    candidates: Sequence[Mapping[str, Any]],
    votes: Votes,
    tokenizer: TextTokenizer,
    config: PreferenceConfig,
    counts: PromptCounts,
) -> Iterator[dict[str, Any]]:
    groups: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in candidates:
        if groups[row["prompt_id"]].setdefault(row["candidate_id"], row) is not row:
            raise ConfigError(
                f"candidates: {row['candidate_id']} of prompt {row['prompt_id']} is there twice"
            )
    unknown = {(prompt, name) for prompt, voters in votes.items() for one in voters.values() for name in one}
    unknown -= {(prompt, name) for prompt, group in groups.items() for name in group}
    if unknown:
        prompt, name = min(unknown)
        raise ConfigError(f"votes: prompt {prompt} has no candidate {name}")
    for prompt_id, group in sorted(groups.items()):
        names = sorted(group)
        voters = votes.get(prompt_id, {})
        whole = [voters[voter] for voter in sorted(voters) if set(voters[voter]) == set(names)]
        counts.num_prompts += 1
        counts.num_partial_votes += len(voters) - len(whole)
        scores = np.array([[one[name] for name in names] for one in whole], np.float64)
        choice = choose(scores, config)
        if isinstance(choice, str):
            counts.left_out[choice] += 1
            continue
        counts.num_triplets += 1
        yield _triplet(group[names[choice.chosen]], group[names[choice.rejected]], choice, tokenizer, config)


def _triplet(
    chosen: Mapping[str, Any],
    rejected: Mapping[str, Any],
    choice: Choice,
    tokenizer: TextTokenizer,
    config: PreferenceConfig,
) -> dict[str, Any]:
    if chosen["prompt"] != rejected["prompt"]:
        raise ConfigError(f"candidates: prompt {chosen['prompt_id']} has two texts")
    return {
        "prompt_id": chosen["prompt_id"],
        "prompt": chosen["prompt"],
        **_side("chosen", chosen, tokenizer, config),
        **_side("rejected", rejected, tokenizer, config),
        "chosen_rank": choice.chosen_rank,
        "rejected_rank": choice.rejected_rank,
        "agreement": choice.agreement,
        "num_voters": choice.num_voters,
    }


def _side(
    side: str, row: Mapping[str, Any], tokenizer: TextTokenizer, config: PreferenceConfig
) -> dict[str, Any]:
    grid = grid_of(row)
    frames, rows, cols = grid.shape
    meta = config.image_meta.format(rows=rows, cols=cols)
    return {
        f"{side}_id": row["candidate_id"],
        f"{side}_codes": row["codes"],
        f"{side}_grid": [frames, rows, cols],
        f"{side}_input_ids": build(tokenizer.encode(row["prompt"]), tokenizer.encode(meta), grid),
    }


def make_triplets(candidates: str, votes: str, target: str, vocabulary: str, **settings: Any) -> PromptCounts:
    """`write_triplets` for the command line: a vocabulary by name, a Parquet file as the target."""
    from curation.pipeline.models import fetch, resolve_revision
    from curation.stage import ModelRef

    if not target.endswith(".parquet"):
        raise ConfigError(f"{target}: triplets are written as .parquet, and the name does not end in it")
    ref = ModelRef("vocabulary", vocabulary)
    tokenizer = TextTokenizer(fetch(ref, resolve_revision(ref)))
    return write_triplets(candidates, votes, *storage_of(target), tokenizer, PreferenceConfig(**settings))
