"""Is this a caption? Named verdicts on what a model answered. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal, get_args

from pydantic import Field

from curation.stage import StageConfig

Verdict = Literal[
    "empty",
    "malformed",
    "degenerate",
    "refused",
    "prompt_echo",
    "repeated_ngrams",
    "wrong_script",
    "cut_off",
    "too_short",
    "too_long",
]
"""What can be wrong with an answer, in the order in which it is looked for.

empty: nothing but white space. malformed: not the JSON that was asked for. degenerate: one character
again and again ("!!!!" is what a model with broken numbers says), or hardly a letter. refused: the model
won't answer. prompt_echo: it repeats the question. repeated_ngrams: it repeats itself. wrong_script:
another language's letters. cut_off: it ran into `max_tokens`. too_short, too_long: in words.
"""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
OK = "ok"

SCRIPTS: dict[str, frozenset[str]] = {
    "Arabic": frozenset({"ARABIC"}),
    "Chinese": frozenset({"CJK"}),
    "Dutch": frozenset({"LATIN"}),
    "English": frozenset({"LATIN"}),
    "French": frozenset({"LATIN"}),
    "German": frozenset({"LATIN"}),
    "Greek": frozenset({"GREEK"}),
    "Hebrew": frozenset({"HEBREW"}),
    "Hindi": frozenset({"DEVANAGARI"}),
    "Indonesian": frozenset({"LATIN"}),
    "Italian": frozenset({"LATIN"}),
    "Japanese": frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    "Korean": frozenset({"HANGUL"}),
    "Polish": frozenset({"LATIN"}),
    "Portuguese": frozenset({"LATIN"}),
    "Russian": frozenset({"CYRILLIC"}),
    "Spanish": frozenset({"LATIN"}),
    "Thai": frozenset({"THAI"}),
    "Turkish": frozenset({"LATIN"}),
    "Ukrainian": frozenset({"CYRILLIC"}),
    "Vietnamese": frozenset({"LATIN"}),
}
"""Language -> first words of its letters' Unicode names."""


class GateConfig(StageConfig):
    """When an answer is no caption."""

    refuse: list[Verdict] = Field(default=list(VERDICTS))
    """Verdicts after which the model is asked again; the others are only noted in the column `verdict`."""
    max_run: Annotated[int, Field(ge=2)] = 10
    """Longest run of one character other than a space."""
    min_letter_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Least share of letters and digits among the characters other than spaces."""
    max_echo_words: Annotated[int, Field(ge=1)] = 9
    """Most words in a row that the answer may have in common with the question."""
    max_repeated_fraction: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Most of the answer's runs of four words that may have occurred in it before."""
    min_script_fraction: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Least share of the language's own script among the letters."""
    min_words: Annotated[int, Field(ge=0)] = 4
    """Shortest caption in words; a Chinese, Japanese, Korean or Thai character counts as one."""
    max_words: Annotated[int, Field(ge=1)] = 600
    """Longest caption in words."""


_NGRAM = 4
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:['-][^\W{_UNSPACED}]+)*")
_REFUSAL = re.compile(
    r"^\W*(?:(?:i'?m|i am|we'?re) (?:really |very |so |terribly )?(?:sorry|afraid|unable|not able)\b"
    r"|(?:sorry|unfortunately|(?:my )?apologies)\b.{0,40}"
    r"\b(?:can't|cannot|can not|unable|not able|won't)\b"
    r"|i (?:can'?t|cannot|can not|won'?t|will not|must decline)\b"
    r"|(?:as|i'?m|i am) an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|(?:抱歉|对不起|很抱歉|我无法|我不能|申し訳|죄송))",
    re.IGNORECASE,
)
_TEMPLATE_TOKEN = re.compile(
    r"<\|?/?(?:im_start|im_end|endoftext|image|video|vision_\w+|image_pad|video_pad|s)\|?>"
)


def judge(text: str, finish_reason: str, prompt: str, language: str, config: GateConfig) -> Verdict | None:
    """The first thing that is wrong with a caption, or None. `malformed` is not looked for here."""
    text = text.replace("\u2019", "'")
    words = [word.casefold() for word in _WORD.findall(text)]
    found: list[tuple[Verdict, bool]] = [
        ("empty", not text.strip()),
        ("degenerate", _is_degenerate(text, config)),
        ("refused", finish_reason == "content_filter" or bool(_REFUSAL.match(text))),
        ("prompt_echo", _echoes(text, words, prompt, config)),
        ("repeated_ngrams", _repeats(words, finish_reason, config)),
        ("wrong_script", _script_fraction(text, SCRIPTS[language]) < config.min_script_fraction),
        ("cut_off", finish_reason == "length"),
        ("too_short", len(words) < config.min_words),
        ("too_long", len(words) > config.max_words),
    ]
    return next((verdict for verdict, applies in found if applies), None)


def _is_degenerate(text: str, config: GateConfig) -> bool:
    solid = "".join(text.split())
    if re.search(rf"(.)\1{{{config.max_run}}}", solid):
        return True
    # Vowel signs of Indic scripts are marks, and as good as letters.
    solid_letters = sum(unicodedata.category(char)[0] in "LMN" for char in solid)
    return solid_letters < config.min_letter_fraction * len(solid)


def _echoes(text: str, words: list[str], prompt: str, config: GateConfig) -> bool:
    if _TEMPLATE_TOKEN.search(text):
        return True
    asked = [word.casefold() for word in _WORD.findall(prompt)]
    length = config.max_echo_words + 1
    return bool(set(_runs(words, length)) & set(_runs(asked, length)))


def _repeats(words: list[str], finish_reason: str, config: GateConfig) -> bool:
    if finish_reason == "repetition":  # vLLM stops such answers by itself, if told to
        return True
    counts = Counter(_runs(words, _NGRAM))
    total = counts.total()
    return total > 0 and (total - len(counts)) / total > config.max_repeated_fraction


def _runs(words: list[str], length: int) -> Iterable[tuple[str, ...]]:
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))


def _script_fraction(text: str, scripts: frozenset[str]) -> float:
    """Share of letters of these scripts; 1 where there are no letters."""
    letters = [char for char in text if char.isalpha()]
    own = sum(unicodedata.name(char, "").replace("-", " ").partition(" ")[0] in scripts for char in letters)
    return own / len(letters) if letters else 1.0
