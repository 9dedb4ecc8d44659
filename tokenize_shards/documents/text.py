"""Emu3's text vocabulary: the byte-pair ranks of Qwen, with ids for vision tokens behind them."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from curation.errors import ConfigError

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NUM_RANKS = 151_643

PAD = 151_643
EOL = 151_846
EOF = 151_847
BOS = 151_849
EOS = 151_850
SOT = 151_851
SOV = 151_852
EOV = 151_853
FIRST_VISUAL = 151_854
VOCABULARY_SIZE = 184_622
"""Ids of Emu3: padding, ends of row and frame, begin and end of document, begin of vision tokens
("image token"), begin and end of vision input ("image start", "image end"), visual code 0."""


class TextTokenizer:
    """Text to ids and back. What looks like a special token in the text becomes ordinary ids.

    A caption of any length is encoded whole, in time that grows with its length; half a surrogate pair
    becomes U+FFFD.
    """

    def __init__(self, path: Path) -> None:
        """Load ranks in tiktoken's format, or a `tokenizer.json` of Hugging Face.

        Raises:
            ConfigError: the file is neither, or its ids of text reach into those of markers and codes.
        """
        self._engine: _Engine = (_TokenizerJson if path.suffix == ".json" else _Ranks)(path)
        self.size = self._engine.size
        if self.size > NUM_RANKS:
            raise ConfigError(
                f"{path} has {self.size} ids of text, Emu3's documents have room for {NUM_RANKS}"
            )

    def encode(self, text: str) -> list[int]:
        """Ids of the text, normalised to NFC first."""
        return self._engine.encode(_normalized(text))

    def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` of many texts."""
        return self._engine.encode_all([_normalized(text) for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids below 151,643."""
        return self._engine.decode(ids)


def _normalized(text: str) -> str:
    if text.isascii():
        return text
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", whole)


class _Engine(Protocol):
    size: int

    def encode(self, text: str) -> list[int]: ...

    def encode_all(self, texts: list[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class _Ranks:
    """A `qwen.tiktoken` file: a byte sequence in base64 and its rank per line."""

    def __init__(self, path: Path) -> None:
        import tiktoken

        try:
            # tiktoken's own loader keeps a copy by path, and would go on with an older file's ranks.
            lines = (line.split() for line in path.read_bytes().splitlines())
            table = {base64.b64decode(line[0], validate=True): int(line[1]) for line in lines if line}
        except OSError as error:
            raise ConfigError(f"cannot read the vocabulary {path}: {error.strerror}") from error
        except (ValueError, IndexError) as error:
            raise ConfigError(f"{path} holds no ranks in tiktoken's format") from error
        if not table:
            raise ConfigError(f"{path} holds no ranks in tiktoken's format: it is empty")
        self._encoding = tiktoken.Encoding("emu3", pat_str=PATTERN, mergeable_ranks=table, special_tokens={})
        self.size = max(table.values(), default=-1) + 1

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._encoding.encode_ordinary(text)
        return ids

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        # One by one: tiktoken's batches go through a pool of threads, at twice the CPU time.
        return [self._encoding.encode_ordinary(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._encoding.decode(ids)
        return text


class _TokenizerJson:
    """A `tokenizer.json`, without the tokens that were added to it: they would be found in captions."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            content = json.loads(path.read_bytes())
            added = {token["content"] for token in content["added_tokens"]}
            content |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
            self._tokenizer = Tokenizer.from_buffer(json.dumps(content).encode())
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} holds no tokenizer in Hugging Face's format: {error}") from error
        # Some files list what was added among the words of the model too, where no text leads to it.
        words = self._tokenizer.get_vocab()
        self.size = max((number for word, number in words.items() if word not in added), default=-1) + 1

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)
