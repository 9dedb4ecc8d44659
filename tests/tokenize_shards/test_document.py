"""Documents. The reference is the way of Emu3's public fine-tuning code: a string, tokenized as a whole."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydantic import ValidationError

from curation.errors import TokenizeError
from curation.tokenize_shards.documents.document import (
    DocumentConfig,
    Draw,
    build,
    document_length,
    draw,
    parse,
    validate,
    vision_ids,
)
from curation.tokenize_shards.documents.text import TextTokenizer

# Emu3's own numbers, written out here so that a wrong constant in the code is seen.
EOL, EOF, BOS, EOS, SOT, SOV, EOV, FIRST = 151846, 151847, 151849, 151850, 151851, 151852, 151853, 151854

grids = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: arrays(np.uint16, shape, elements=st.integers(0, 32_767))
)
texts = st.lists(st.integers(0, 151_642), max_size=12)


def damaged(change: Callable[[list[int]], list[int]]) -> NDArray[np.int32]:
    # Three frames: of two frames, the loss of the EOF between them leaves a sound document of one.
    grid = np.arange(5, 17, dtype=np.uint16).reshape(3, 2, 2)
    return np.array(change(build([1, 2, 3], [4], grid).tolist()), np.int32)


def without(ids: list[int], place: int) -> list[int]:
    return ids[:place] + ids[place + 1 :]


def with_first(ids: list[int], old: int, new: int) -> list[int]:
    place = ids.index(old)
    return [*ids[:place], new, *ids[place + 1 :]]


def swapped(ids: list[int], one: int, other: int) -> list[int]:
    places = ids.index(one), ids.index(other)
    swapped_ids = list(ids)
    swapped_ids[places[0]], swapped_ids[places[1]] = other, one
    return swapped_ids


def public_string(caption: str, grid: NDArray[np.uint16]) -> str:
    """Emu3's string form of an image or clip: markers and codes spelled out."""
    frames = "".join(
        "".join("".join(f"<|visual token {code:0>6d}|>" for code in row) + "<|extra_200|>" for row in frame)
        + "<|extra_201|>"
        for frame in grid.tolist()
    )
    rows, columns = grid.shape[1:]
    return (
        f"<|extra_203|>{caption}<|image start|>{rows}*{columns}<|image token|>{frames}"
        "<|image end|><|extra_204|>"
    )


def public_ids(document: str, ranks: Path, codes: set[int]) -> list[int]:
    """The string through a text tokenizer that knows the special tokens, as Emu3's own does."""
    special = {f"<|extra_{number}|>": 151_646 + number for number in range(205)}
    special |= {"<|image token|>": 151_851, "<|image start|>": 151_852, "<|image end|>": 151_853}
    special |= {f"<|visual token {code:0>6d}|>": 151_854 + code for code in codes}
    lines = (line.split() for line in ranks.read_text().splitlines())
    table = {base64.b64decode(word): int(rank) for word, rank in lines}
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    encoding = tiktoken.Encoding("public", pat_str=pattern, mergeable_ranks=table, special_tokens=special)
    return encoding.encode(document, allowed_special="all")


def check_against_public(ranks: Path, shape: tuple[int, int, int]) -> None:
    grid = np.random.default_rng(0).integers(0, 32_768, shape).astype(np.uint16)
    caption = "A cat sits on the sofa, 12 o'clock; caf\u00e9."
    tokenizer = TextTokenizer(ranks)
    meta = tokenizer.encode(f"{shape[1]}*{shape[2]}")
    expected = public_ids(public_string(caption, grid), ranks, set(grid.reshape(-1).tolist()))
    assert build(tokenizer.encode(caption), meta, grid).tolist() == expected


def test_generation_by_hand() -> None:
    grid = np.array([[[0, 32_767, 1], [2, 3, 11_928]]], np.uint16)
    vision = [FIRST, 184_621, FIRST + 1, EOL, FIRST + 2, FIRST + 3, 163_782, EOL, EOF]
    document = build([9707, 1879], [17, 9, 18], grid, "generation")
    assert document.tolist() == [BOS, 9707, 1879, SOV, 17, 9, 18, SOT, *vision, EOV, EOS]
    assert document.dtype == np.int32


def test_understanding_by_hand() -> None:
    grid = np.array([[[4]], [[5]]], np.uint16)
    vision = [FIRST + 4, EOL, EOF, FIRST + 5, EOL, EOF]
    expected = [BOS, SOV, 16, SOT, *vision, EOV, 9707, EOS]
    assert build([9707], [16], grid, "understanding").tolist() == expected


@pytest.mark.parametrize("shape", [(1, 4, 6), (2, 3, 5)])
def test_ids_equal_the_public_string_construction(small_vocabulary: Path, shape: Any) -> None:
    check_against_public(small_vocabulary, shape)


def test_ids_equal_the_public_string_construction_with_qwen(shared_data: Path) -> None:
    check_against_public(shared_data / "text/qwen.tiktoken", (1, 4, 6))


def test_number_of_ids_of_a_256_pixel_image() -> None:
    # By hand: 32 rows of 32 codes and EOL, EOF; BOS, 3 + 5 text ids, SOV, SOT, EOV, EOS.
    grid = np.zeros((1, 32, 32), np.uint16)
    assert len(vision_ids(grid)) == 32 * 33 + 1 == 1057
    assert len(build([1, 2, 3], [1, 2, 3, 4, 5], grid)) == 1057 + 8 + 5


@given(grid=grids, caption=texts, meta=texts, task=st.sampled_from(["generation", "understanding"]))
def test_parse_takes_apart_what_build_made(
    grid: NDArray[np.uint16], caption: list[int], meta: list[int], task: Any
) -> None:
    parsed = parse(build(caption, meta, grid, task))
    assert (parsed.caption_ids, parsed.meta_ids) == (caption, meta)
    assert parsed.grid.dtype == np.uint16
    np.testing.assert_array_equal(parsed.grid, grid)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda ids: [], id="nothing"),
        pytest.param(lambda ids: ids[1:], id="no BOS"),
        pytest.param(lambda ids: ids[:-1], id="no EOS"),
        pytest.param(lambda ids: ids + ids, id="two documents"),
        pytest.param(lambda ids: without(ids, ids.index(SOV)), id="no SOV"),
        pytest.param(lambda ids: without(ids, ids.index(SOT)), id="no SOT"),
        pytest.param(lambda ids: without(ids, ids.index(EOV)), id="no EOV"),
        pytest.param(lambda ids: with_first(ids, 2, SOV), id="SOV twice"),
        pytest.param(lambda ids: swapped(ids, SOV, EOV), id="EOV before SOV"),
        pytest.param(lambda ids: swapped(ids, SOT, SOV), id="SOT before SOV"),
        pytest.param(lambda ids: without(ids, ids.index(EOL)), id="a row without EOL"),
        pytest.param(lambda ids: without(ids, ids.index(EOF)), id="a frame without EOF"),
        pytest.param(lambda ids: swapped(ids, EOL, FIRST + 6), id="EOL inside a row"),
        pytest.param(lambda ids: swapped(ids, EOF, FIRST + 9), id="EOF inside a row"),
        pytest.param(lambda ids: swapped(ids, EOL, EOF), id="EOF for EOL"),
        pytest.param(lambda ids: with_first(ids, FIRST + 7, 17), id="text among the codes"),
        pytest.param(lambda ids: with_first(ids, FIRST + 7, BOS), id="a marker among the codes"),
        pytest.param(lambda ids: with_first(ids, FIRST + 7, 184_622), id="a code too large"),
        pytest.param(lambda ids: with_first(ids, 2, FIRST), id="a code in the caption"),
        pytest.param(lambda ids: with_first(ids, 2, BOS), id="a marker in the caption"),
        pytest.param(lambda ids: with_first(ids, 4, 151_643), id="padding in the meta"),
        pytest.param(lambda ids: [*ids[:-1], 7, EOS], id="text on both sides"),
        pytest.param(lambda ids: [BOS, SOV, 4, SOT, EOV, EOS], id="no vision tokens"),
        pytest.param(lambda ids: [BOS, SOV, 4, SOT, EOL, EOF, EOV, EOS], id="an empty row"),
        pytest.param(lambda ids: [BOS, SOV, 4, SOT, EOF, EOV, EOS], id="a frame without rows"),
    ],
)
def test_parse_refuses(change: Callable[[list[int]], list[int]]) -> None:
    assert parse(damaged(list)).grid.shape == (3, 2, 2)  # undamaged it is fine
    with pytest.raises(TokenizeError):
        parse(damaged(change))


@given(data=st.data())
def test_parse_notices_every_lost_id_that_is_no_text(data: st.DataObject) -> None:
    ids = damaged(list)
    place = data.draw(st.sampled_from(np.flatnonzero(ids >= 151_643).tolist()))
    with pytest.raises(TokenizeError):
        parse(np.delete(ids, place))


SAMPLES = [f"{number:020x}" for number in range(4000)]


def drawn(seed: int = 0, **fractions: float) -> list[Draw]:
    return [draw(sample_id, seed, DocumentConfig(**fractions)) for sample_id in SAMPLES]


def test_nothing_is_drawn_by_default() -> None:
    assert set(drawn()) == {Draw("generation", has_caption=True)}


def test_fractions_are_met_and_do_not_depend_on_each_other() -> None:
    found = drawn(understanding_fraction=0.25, null_caption_fraction=0.1)
    generation = [item for item in found if item.task == "generation"]
    # Four standard deviations of 4,000 and 3,000 draws.
    assert len(generation) == pytest.approx(3000, abs=110)
    assert sum(not item.has_caption for item in generation) == pytest.approx(300, abs=66)
    assert all(item.has_caption for item in found if item.task == "understanding")


@given(data=st.data())
def test_length_without_building(data: st.DataObject) -> None:
    """Of one document, and of several at once."""
    made = data.draw(st.lists(st.tuples(grids, texts, texts), min_size=1, max_size=4))
    lengths = [len(build(caption, meta, grid)) for grid, caption, meta in made]
    shapes = np.array([grid.shape for grid, _, _ in made]).T
    captions, metas = (np.array([len(item[place]) for item in made]) for place in (1, 2))
    frames, rows, columns = shapes
    assert document_length(captions, metas, (frames, rows, columns)).tolist() == lengths
    grid, caption, meta = made[0]
    assert document_length(len(caption), len(meta), grid.shape) == lengths[0]


def test_whole_fractions() -> None:
    assert {item.task for item in drawn(understanding_fraction=1.0)} == {"understanding"}
    assert not any(item.has_caption for item in drawn(null_caption_fraction=1.0))


def test_a_raised_fraction_keeps_what_was_drawn() -> None:
    few, more = drawn(understanding_fraction=0.1), drawn(understanding_fraction=0.3)
    assert all(
        after.task == "understanding"
        for before, after in zip(few, more, strict=True)
        if before.task == "understanding"
    )


def test_the_seed_decides() -> None:
    assert drawn(1, understanding_fraction=0.5) == drawn(1, understanding_fraction=0.5)
    assert drawn(1, understanding_fraction=0.5) != drawn(2, understanding_fraction=0.5)


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_fractions_have_a_range(fraction: float) -> None:
    with pytest.raises(ValidationError, match="null_caption_fraction"):
        DocumentConfig(null_caption_fraction=fraction)


class TestValidate:
    @pytest.fixture
    def text(self, small_vocabulary: Path) -> TextTokenizer:
        return TextTokenizer(small_vocabulary)

    def ids(
        self, text: TextTokenizer, meta: str, shape: tuple[int, int, int] = (1, 4, 6)
    ) -> NDArray[np.int32]:
        return build(text.encode("the caption"), text.encode(meta), np.ones(shape, np.uint16))

    def test_reads_what_was_built(self, text: TextTokenizer) -> None:
        found = validate(self.ids(text, "4*6"), text, DocumentConfig())
        assert (found.caption, found.meta, found.grid.shape) == ("the caption", "4*6", (1, 4, 6))

    @pytest.mark.parametrize("fps", [4.0, 23.976023976, 0.3, 60.0])
    @pytest.mark.parametrize("frames", [1, 2, 16])
    def test_meta_of_every_clip_is_accepted(self, text: TextTokenizer, fps: float, frames: int) -> None:
        config = DocumentConfig()
        meta = config.meta("clip", (frames, 4, 6), fps)
        assert validate(self.ids(text, meta, (frames, 4, 6)), text, config).meta == meta

    @pytest.mark.parametrize(
        ("meta", "shape"),
        [
            ("6*4", (1, 4, 6)),
            ("4*7", (1, 4, 6)),
            ("4 * 6", (1, 4, 6)),
            ("", (1, 4, 6)),
            ("4*6", (2, 4, 6)),  # an image of two frames
            ("4*6*3 4fps 2.0s", (2, 4, 6)),
            ("4*6*2 4fps 3.0s", (2, 4, 6)),
            ("4*6*2 0fps 2.0s", (2, 4, 6)),
            ("4*6*2 xfps 2.0s", (2, 4, 6)),
        ],
    )
    def test_meta_of_another_grid_is_refused(self, text: TextTokenizer, meta: str, shape: Any) -> None:
        with pytest.raises(TokenizeError, match="meta"):
            validate(self.ids(text, meta, shape), text, DocumentConfig())

    def test_template_of_ones_own(self, text: TextTokenizer) -> None:
        config = DocumentConfig(image_meta="({cols:04d}, {rows}) [{cols}]")
        meta = config.meta("image", (1, 4, 6), None)
        assert meta == "(0006, 4) [6]"
        assert validate(self.ids(text, meta), text, config).meta == meta
        with pytest.raises(TokenizeError, match="meta"):
            validate(self.ids(text, "(0006, 4) [5]"), text, config)

    def test_lost_row_and_frame_are_noticed_by_the_meta(self, text: TextTokenizer) -> None:
        # What parse alone can't see: a whole row, or a whole frame, that is gone.
        ids = self.ids(text, "4*6").tolist()
        start = ids.index(SOT) + 1
        with pytest.raises(TokenizeError, match="meta"):
            validate(np.array(ids[:start] + ids[start + 7 :]), text, DocumentConfig())

    @pytest.mark.parametrize("caption", [[ord("t"), ord("h")], [0xC3]], ids=["unmerged", "half a character"])
    def test_ids_that_no_text_has_are_refused(self, text: TextTokenizer, caption: list[int]) -> None:
        with pytest.raises(TokenizeError, match="no text has"):
            validate(
                build(caption, text.encode("1*1"), np.ones((1, 1, 1), np.uint16)), text, DocumentConfig()
            )
