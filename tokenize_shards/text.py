"""Emu3's text vocabulary: the byte-pair ranks of Qwen, with ids for vision tokens behind them."""

from __future__ import annotations

import base64
import unicodedata
from pathlib import Path

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
    """Text to ids and back. What looks like a special token in the text becomes ordinary ids."""

    def __init__(self, ranks: Path) -> None:
        """Load a `qwen.tiktoken` file: a byte sequence in base64 and its rank per line."""
        import tiktoken

        # tiktoken's own loader keeps a copy by path, and would go on with an older file's ranks.
        lines = (line.split() for line in ranks.read_bytes().splitlines())
        table = {base64.b64decode(line[0]): int(line[1]) for line in lines if line}
        self._encoding = tiktoken.Encoding("emu3", pat_str=PATTERN, mergeable_ranks=table, special_tokens={})
        self.size = len(table)

    def encode(self, text: str) -> list[int]:
        """Ids of the text, normalised to NFC first."""
        ids: list[int] = self._encoding.encode_ordinary(unicodedata.normalize("NFC", text))
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids below 151,643."""
        text: str = self._encoding.decode(ids)
        return text
