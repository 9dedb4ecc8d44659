"""Which library decodes a video. PyAV takes everything; decord only what it was found to get right."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from curation.errors import MissingDependencyError
from curation.media.decode import decode_recordings, decode_video
from curation.media.decord import decode_with_decord, refusal
from curation.media.file import MediaFile
from curation.media.frame import Frame
from curation.media.image import MAX_PIXELS
from curation.media.pictures.render import DEFAULT_RENDERING, Rendering
from curation.media.sampling import Sampling
from curation.records import Source

DecoderName = Literal["pyav", "decord"]


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """What a configuration says about decoding videos.

    Attributes:
        name: The library that decodes what it is known to get right.
        tone_maps: Whether HDR is tone-mapped.
        max_pixels: Larger frames are refused.
    """

    name: DecoderName = "pyav"
    tone_maps: bool = True
    max_pixels: int = MAX_PIXELS


class Decoder(Protocol):
    """Decodes a video from front to back."""

    def refusal(self, source: Source) -> str | None:
        """Why this decoder is known to get such a video wrong; None if it takes it."""

    def frames(
        self, file: MediaFile, start_s: float = 0.0, sampling: Sampling | None = None
    ) -> Iterator[Frame]:
        """Upright frames of one size, in presentation order and with the container's times, or where its
        clock jumps, with those of the `Timeline`.

        They may begin at any frame up to `start_s`; `index` counts from the first one given. With a
        `sampling`, frames may be decoded only when somebody looks at them.

        Raises:
            ProbeError: not a video.
            DecodeError: the stream is damaged or cut off.
        """


class PyAVDecoder:
    """FFmpeg's own decoders; a frame is converted to RGB only when somebody looks at it."""

    def __init__(self, rendering: Rendering = DEFAULT_RENDERING, *, clock_jumps: bool = False) -> None:
        """`clock_jumps`: the video has discontinuities."""
        self._rendering = rendering
        self._clock_jumps = clock_jumps

    def refusal(self, source: Source) -> str | None:
        return None

    def frames(
        self, file: MediaFile, start_s: float = 0.0, sampling: Sampling | None = None
    ) -> Iterator[Frame]:
        if self._clock_jumps:
            return decode_recordings(file, self._rendering)
        return decode_video(file, start_s, self._rendering, sampling=sampling)


class DecordDecoder:
    """decord, which converts every frame. It opens paths only: `other` decodes what is read in ranges."""

    def __init__(self, other: Decoder | None = None) -> None:
        """`other`: by default PyAV."""
        self._other = other or PyAVDecoder()

    def refusal(self, source: Source) -> str | None:
        return refusal(source)

    def frames(
        self, file: MediaFile, start_s: float = 0.0, sampling: Sampling | None = None
    ) -> Iterator[Frame]:
        if not isinstance(file, Path):
            return self._other.frames(file, start_s, sampling)
        return decode_with_decord(file, start_s)


def decoder_for(settings: DecoderSettings, source: Source) -> Decoder:
    """The decoder of the settings, or PyAV where it refuses the source; frames have the source's size."""
    size = (source.height, source.width) if source.height and source.width else None
    rendering = Rendering(size, settings.tone_maps, settings.max_pixels)
    decoder = PyAVDecoder(rendering, clock_jumps=source.clock_jumps)
    if settings.name == "decord" and refusal(source) is None:
        return DecordDecoder(decoder)
    return decoder


def check_decoder(name: DecoderName) -> None:
    """Raises MissingDependencyError: the library is not installed."""
    if name == "decord" and importlib.util.find_spec("decord") is None:
        raise MissingDependencyError(
            "decoder: decord needs the package decord: pip install 'curation[decord]'"
        )
