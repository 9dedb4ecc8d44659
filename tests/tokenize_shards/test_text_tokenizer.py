"""Text ids: with Qwen's vocabulary where it is here, and by hand with a small one."""

from __future__ import annotations

import base64
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers.convert_slow_tokenizer import TikTokenConverter

from curation.errors import ConfigError
from curation.tokenize_shards.documents import text
from curation.tokenize_shards.documents.text import TextTokenizer

SPECIAL_LOOKING = "<|image start|>2*2<|image token|><|visual token 000001|><|extra_203|><|endoftext|>"


@pytest.fixture(scope="module")
def expected(shared_data: Path) -> Any:
    return json.loads((shared_data / "expected.json").read_text())["emu3_text_tokens"]


@pytest.fixture(scope="module")
def qwen(shared_data: Path) -> TextTokenizer:
    return TextTokenizer(shared_data / "text/qwen.tiktoken")


def converted(ranks: Path, target: Path, *, special: bool = True) -> Path:
    """The same vocabulary as a `tokenizer.json`, made by transformers, with Emu3's markers added to it."""
    tokenizer = TikTokenConverter(vocab_file=str(ranks), pattern=text.PATTERN).converted()
    names = [
        "<|image start|>",
        "<|image token|>",
        "<|extra_203|>",
        "<|endoftext|>",
        "<|visual token 000001|>",
    ]
    tokenizer.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    tokenizer.save(str(target))
    return target


@pytest.fixture(scope="module")
def qwen_json(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("json")
    return TextTokenizer(converted(shared_data / "text/qwen.tiktoken", folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def small(small_vocabulary: Path) -> TextTokenizer:
    return TextTokenizer(small_vocabulary)


def test_qwen_ids_equal_the_recorded_ones(qwen: TextTokenizer, expected: Any) -> None:
    # Recorded with tiktoken and the pattern and specials of Emu3's own tokenization_emu3.py.
    assert len(expected["encodings"]) >= 7
    for item in expected["encodings"]:
        assert qwen.encode(item["text"]) == item["ids"], item["text"]
        assert qwen.decode(item["ids"]) == item["text"]


@pytest.mark.slow
def test_tokenizer_json_gives_the_recorded_ids_too(qwen_json: TextTokenizer, expected: Any) -> None:
    for item in expected["encodings"]:
        assert qwen_json.encode(item["text"]) == item["ids"], item["text"]
        assert qwen_json.decode(item["ids"]) == item["text"]
    assert qwen_json.size == expected["n_mergeable"]


@pytest.mark.slow
@given(words=st.text(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_both_formats_agree(qwen: TextTokenizer, qwen_json: TextTokenizer, words: str) -> None:
    assert qwen_json.encode(words) == qwen.encode(words)


@pytest.mark.parametrize("special", [True, False])
def test_added_tokens_are_not_found_in_text(
    small: TextTokenizer, small_vocabulary: Path, tmp_path: Path, special: bool
) -> None:
    tokenizer = TextTokenizer(converted(small_vocabulary, tmp_path / "tokenizer.json", special=special))
    assert tokenizer.encode(SPECIAL_LOOKING) == small.encode(SPECIAL_LOOKING)
    assert tokenizer.decode(tokenizer.encode(SPECIAL_LOOKING)) == SPECIAL_LOOKING
    assert tokenizer.encode("in the cafe\u0301 12") == small.encode("in the cafe\u0301 12")
    assert tokenizer.size == small.size == 261


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[1]"),
        ("tokenizer.json", '{"added_tokens": [], "model": {"type": "none"}}'),
        ("ranks.tiktoken", "not base64 at all\n"),
        ("ranks.tiktoken", "YQ==\n"),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=name):
        TextTokenizer(tmp_path / name)


def test_larger_vocabularies_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.tiktoken"
    path.write_text(f"{base64.b64encode(b'a').decode()} 151643\n")
    with pytest.raises(ConfigError, match=r"has 151644 ids of text, .* room for 151643"):
        TextTokenizer(path)


def test_half_a_surrogate_pair_is_replaced(small: TextTokenizer) -> None:
    assert small.decode(small.encode("ok \ud83d")) == "ok \ufffd"


@pytest.mark.parametrize("word", ["the cat, ", "a", "!", "\u732b", " ", "<|image start|>"])
def test_caption_of_100_000_characters_is_encoded_whole(small: TextTokenizer, word: str) -> None:
    caption = (word * 100_000)[:100_000]
    ids = small.encode(caption)
    assert max(ids) < small.size
    assert small.decode(ids) == caption


def test_constants_equal_the_published_ids(qwen: TextTokenizer, expected: Any) -> None:
    ids = expected["emu3_config_ids"]
    assert tuple(ids[name] for name in ("pad", "eol", "eof", "bos", "eos")) == (
        text.PAD,
        text.EOL,
        text.EOF,
        text.BOS,
        text.EOS,
    )
    assert (ids["img"], ids["boi"], ids["eoi"]) == (text.SOT, text.SOV, text.EOV)
    assert (ids["first_visual"], ids["vocab_size"]) == (text.FIRST_VISUAL, text.VOCABULARY_SIZE)
    special = expected["special"]
    assert (special["<|extra_200|>"], special["<|extra_201|>"]) == (text.EOL, text.EOF)
    assert (special["<|extra_203|>"], special["<|extra_204|>"]) == (text.BOS, text.EOS)
    assert special["<|endoftext|>"] == text.PAD
    assert qwen.size == text.NUM_RANKS == expected["n_mergeable"]


def test_constants_add_up() -> None:
    # Emu3's vocabulary file: Qwen's ranks, 3 + 205 specials, 3 markers of vision input, 32,768 codes.
    assert text.PAD == text.NUM_RANKS
    assert text.NUM_RANKS + 3 + 200 == text.EOL
    assert text.NUM_RANKS + 3 + 205 == text.SOT
    assert text.SOT + 3 == text.FIRST_VISUAL
    assert text.FIRST_VISUAL + 32_768 == text.VOCABULARY_SIZE == 184_622


# By hand: the merge of the lowest rank first, inside the parts that Emu3's pattern cuts.
@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("", []),
        ("the", [257]),
        ("in the", [ord("i"), ord("n"), 258]),
        ("12", [ord("1"), ord("2")]),  # every digit is a part of its own, so the merge of 12 never applies
        ("****", [260, 260]),
        ("t h", [ord("t"), ord(" "), ord("h")]),
        ("\u00e9", [0xC3, 0xA9]),
    ],
)
def test_small_vocabulary_by_hand(small: TextTokenizer, words: str, ids: list[int]) -> None:
    assert small.encode(words) == ids


def test_text_is_normalised_to_nfc(small: TextTokenizer) -> None:
    assert small.encode("cafe\u0301") == [ord("c"), ord("a"), ord("f"), 0xC3, 0xA9]
    assert small.decode(small.encode("cafe\u0301")) == "caf\u00e9"


def test_qwen_text_is_normalised_to_nfc(qwen: TextTokenizer) -> None:
    assert qwen.encode("cafe\u0301") == qwen.encode("caf\u00e9")
    assert qwen.decode(qwen.encode("cafe\u0301")) == "caf\u00e9"


def test_special_looking_text_is_ordinary(small: TextTokenizer) -> None:
    ids = small.encode(SPECIAL_LOOKING)
    assert max(ids) < small.size == 261
    assert small.decode(ids) == SPECIAL_LOOKING


def test_special_looking_text_is_ordinary_to_qwen(qwen: TextTokenizer) -> None:
    ids = qwen.encode(SPECIAL_LOOKING)
    assert max(ids) < 151_643
    assert qwen.decode(ids) == SPECIAL_LOOKING


@given(words=st.text(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_text_comes_back_in_nfc(small: TextTokenizer, words: str) -> None:
    assert small.decode(small.encode(words)) == unicodedata.normalize("NFC", words)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "ranks.tiktoken"
    ids = []
    for order in (range(256), reversed(range(256))):
        lines = (f"{base64.b64encode(bytes([value])).decode()} {rank}" for rank, value in enumerate(order))
        path.write_text("\n".join(lines))
        ids.append(TextTokenizer(path).encode("a"))
    assert ids == [[97], [255 - 97]]
