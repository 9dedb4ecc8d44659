"""Which library decodes a video. PyAV takes everything; decord only what it was found to get right."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from curation.errors import MissingDependencyError
from curation.media.decode import decode_recordings, decode_video
from curation.media.decord import decode_with_decord, refusal
from curation.media.frame import Frame
from curation.records import Source

DecoderName = Literal["pyav", "decord"]


class Decoder(Protocol):
    """Decodes a video from front to back."""

    def refusal(self, source: Source) -> str | None:
        """Why this decoder is known to get such a video wrong; None if it takes it."""

    def frames(self, path: Path, start_s: float = 0.0) -> Iterator[Frame]:
        """Upright frames with square pixels, in presentation order and with the container's times, or
        where its clock jumps, with those of the `Timeline`.

        They may begin at any frame up to `start_s`; `index` counts from the first one given.

        Raises:
            ProbeError: not a video.
            DecodeError: the stream is damaged or cut off.
        """


class PyAVDecoder:
    """FFmpeg's own decoders; a frame is converted to RGB only when somebody looks at it."""

    def __init__(self, *, clock_jumps: bool = False) -> None:
        """`clock_jumps`: the video has discontinuities."""
        self._clock_jumps = clock_jumps

    def refusal(self, source: Source) -> str | None:
        return None

    def frames(self, path: Path, start_s: float = 0.0) -> Iterator[Frame]:
        return decode_recordings(path) if self._clock_jumps else decode_video(path, start_s)


class DecordDecoder:
    """decord, which converts every frame."""

    def refusal(self, source: Source) -> str | None:
        return refusal(source)

    def frames(self, path: Path, start_s: float = 0.0) -> Iterator[Frame]:
        return decode_with_decord(path, start_s)


_DECODERS: dict[DecoderName, type[Decoder]] = {"pyav": PyAVDecoder, "decord": DecordDecoder}


def decoder_for(name: DecoderName, source: Source) -> Decoder:
    """The decoder of that name, or PyAV where it refuses the source."""
    decoder = _DECODERS[name]()
    if name == "pyav" or decoder.refusal(source):
        return PyAVDecoder(clock_jumps=source.clock_jumps)
    return decoder


def check_decoder(name: DecoderName) -> None:
    """Raises MissingDependencyError: the library is not installed."""
    if name == "decord" and importlib.util.find_spec("decord") is None:
        raise MissingDependencyError(
            "decoder: decord needs the package decord: pip install 'curation[decord]'"
        )
