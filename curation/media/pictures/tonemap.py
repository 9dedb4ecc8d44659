"""Tone-maps HDR pictures to SDR BT.709, as FFmpeg's zscale and tonemap filters do.

The chain is display light in units of 100 nits from PQ (SMPTE ST 2084) or HLG (ITU-R BT.2100 with the
system gamma of a display of 1000 nits), primaries of BT.709, Hable's curve on the largest channel with
a peak of 1000 nits, and the inverse of BT.1886, a gamma of 2.4. In FFmpeg's words, with an HLG or PQ input:

    zscale=t=linear:npl=100:agamma=0,format=gbrpf32le,zscale=p=bt709,
    tonemap=tonemap=hable:desat=0:peak=10,zscale=t=bt709,format=gbrp

What a file says of its own peak is not looked at, so that the same signal gives the same picture. PyAV's
FFmpeg has no zscale: the chain is computed here, once, for the corners of a grid, between which FFmpeg's
`lut3d` interpolates.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.media.pictures.filters import PictureFilter, build_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

PQ, HLG = 16, 18
"""Transfer characteristics of ITU-T H.273 that are HDR."""
PEAK_NITS = 1000.0
WHITE_NITS = 100.0
"""Linear light of 1.0: the white of an SDR display."""
_GRID = 65
_TOE = 10.0
_BELOW, _SPAN = 0.2, 1.3
_LEVELS = 65_535
_SCALING = "flags=bicubic+accurate_rnd+full_chroma_int:in_chroma_loc=left"
_FULL_RANGE = 2

_BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
_D65 = (0.3127, 0.3290)
_PRIMARIES = {1: _BT709, 12: _P3}
"""Color primaries of ITU-T H.273; any other, and no word, counts as BT.2020."""
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593])


def _mapped(signal: NDArray[np.float64], transfer: int, primaries: int) -> NDArray[np.float64]:
    """Linear light in BT.709 after the curve; below 0 and above 1 outside of its gamut."""
    light: NDArray[np.float64] = _LIGHT[transfer](signal) / WHITE_NITS @ _to_bt709(primaries).T
    largest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    mapped: NDArray[np.float64] = light * (
        _hable(largest) / _hable(np.array(PEAK_NITS / WHITE_NITS)) / largest
    )
    return mapped


def _pq_light(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nits on display, by the EOTF of SMPTE ST 2084."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = signal ** (1 / m2)
    nits: NDArray[np.float64] = 10_000.0 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return nits


def _hlg_light(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nits on a display of 1000, by the inverse OETF and the OOTF of ITU-R BT.2100 (system gamma 1.2)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = (scene @ _BT2020_LUMA)[..., np.newaxis]
    nits: NDArray[np.float64] = PEAK_NITS * luminance**0.2 * scene
    return nits


_LIGHT: dict[int, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {PQ: _pq_light, HLG: _hlg_light}


def _hable(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hable's filmic curve (Uncharted 2, GDC 2010), with the constants of FFmpeg's vf_tonemap."""
    a, b, c, d, e, f = 0.15, 0.50, 0.10, 0.20, 0.02, 0.30
    return (light * (light * a + b * c) + d * e) / (light * (light * a + b) + d * f) - e / f


def _to_bt709(primaries: int) -> NDArray[np.float64]:
    """Linear RGB of these primaries to linear RGB of BT.709; both have a white of D65."""
    matrix: NDArray[np.float64] = np.linalg.inv(_to_xyz(_BT709)) @ _to_xyz(_PRIMARIES.get(primaries, _BT2020))
    return matrix


def _to_xyz(primaries: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    def xyz(x: float, y: float) -> list[float]:
        return [x / y, 1.0, (1 - x - y) / y]

    columns = np.array([xyz(*point) for point in primaries]).T
    scales: NDArray[np.float64] = np.linalg.solve(columns, np.array(xyz(*_D65)))
    return columns * scales


# The grid holds light on a scale that is straight around 0 and goes on below it and above 1: on the scale
# of the result, whose slope is infinite at 0, colors near the edge of the gamut came out up to 33 levels off.


def _squeezed(light: NDArray[np.float64]) -> NDArray[np.float64]:
    squeezed: NDArray[np.float64] = np.arcsinh(light * _TOE) / np.arcsinh(_TOE)
    return np.clip((squeezed + _BELOW) / _SPAN, 0, 1)


@functools.cache
def _levels() -> NDArray[np.uint8]:
    """[65536] squeezed light, as 16 bits, to 8 bits of R'G'B'."""
    squeezed = np.arange(_LEVELS + 1) / _LEVELS * _SPAN - _BELOW
    light = np.sinh(squeezed * np.arcsinh(_TOE)) / _TOE
    levels: NDArray[np.uint8] = np.rint(255 * np.clip(light, 0, 1) ** (1 / 2.4)).astype(np.uint8)
    return levels


@functools.cache
def _cube(transfer: int, primaries: int, white: int) -> bytes:
    """The grid as a .cube file, red running fastest; `white` is the 16-bit level of a signal of 1."""
    axis = np.linspace(0, _LEVELS / white, _GRID)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    corners = np.stack([red, green, blue], axis=-1).reshape(-1, 3)
    squeezed = np.rint(_squeezed(_mapped(corners, transfer, primaries)) * 1e6).astype(int)
    lines = [f"{r / 1e6:.6f} {g / 1e6:.6f} {b / 1e6:.6f}" for r, g, b in squeezed.tolist()]
    return "\n".join([f"LUT_3D_SIZE {_GRID}", *lines, ""]).encode()


class ToneMapper(PictureFilter):
    """Renders HDR pictures as SDR."""

    def __call__(self, picture: Any, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 R'G'B' of BT.709 of a decoded picture whose transfer is PQ or HLG."""
        pixels: NDArray[np.uint8] = _levels()[self.run(picture, size)]
        return pixels

    def build(self, picture: Any, size: tuple[int, int] | None) -> Any:
        """From YUV of any depth to 16 bits of R'G'B', then to squeezed light."""
        height, width = size or (picture.height, picture.width)
        with tempfile.NamedTemporaryFile(suffix=".cube") as file:
            file.write(_cube(int(picture.color_trc), int(picture.color_primaries), _white(picture)))
            file.flush()
            return build_graph(
                picture,
                [
                    ("scale", f"{width}:{height}:{_SCALING}{_decoded_by(picture)}"),
                    ("format", "gbrp16le"),
                    ("lut3d", f"file={file.name}:interp=tetrahedral"),
                ],
            )


def _is_rgb(picture: Any) -> bool:
    return "rgb" in picture.format.name or "gbr" in picture.format.name


def _decoded_by(picture: Any) -> str:
    """Options of `scale`: the matrix of BT.2020 and limited range, unless the picture says otherwise."""
    if _is_rgb(picture):
        return ""
    matrix = {1: "bt709", 5: "smpte170m", 6: "smpte170m"}.get(int(picture.colorspace), "bt2020")
    return f":in_color_matrix={matrix}:in_range={'pc' if picture.color_range == _FULL_RANGE else 'tv'}"


def _white(picture: Any) -> int:
    """What `scale` makes of a signal of 1 in 16 bits: it fills up with zeros, found by trying."""
    if not _is_rgb(picture) and picture.color_range != _FULL_RANGE:
        return 255 << 8
    depth = int(picture.format.components[0].bits)
    return (1 << depth) - 1 << 16 - depth
