"""Codecs and containers in which pictures refer to each other in many ways."""

from __future__ import annotations

PAIRS = {"bf": "1", "x264-params": "b-adapt=0:scenecut=0:weightp=0"}
"""H.264 in which every second picture is a B-frame that no other refers to."""
FORMATS = {
    "pairs.mp4": {"codec": "libx264", "g": "250", **PAIRS},
    "pyramid.mkv": {"codec": "libx264", "g": "30", "x264-params": "bframes=7:b-pyramid=normal:b-adapt=2"},
    "open.mp4": {"codec": "libx264", "x264-params": "open-gop=1:bframes=3:keyint=20:b-adapt=0"},
    "open.ts": {"codec": "libx264", "x264-params": "open-gop=1:bframes=3:keyint=20:b-adapt=0"},
    "refresh.ts": {"codec": "libx264", "x264-params": "intra-refresh=1:keyint=20"},
    "refresh.mp4": {"codec": "libx264", "x264-params": "intra-refresh=1:keyint=20:bframes=2"},
    "one_key.flv": {"codec": "libx264", "x264-params": "keyint=infinite:bframes=3"},
    "no_b.mp4": {"codec": "libx264", "bf": "0"},
    "fragments.mp4": {"codec": "libx264", "movflags": "frag_keyframe+empty_moov", "g": "12"},
    "avi.avi": {"codec": "libx264", "bf": "2"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none:bframes=4:keyint=30"},
    "hevc_open.mkv": {"codec": "libx265", "x265-params": "log-level=none:open-gop=1:keyint=15:bframes=3"},
    "hevc.ts": {"codec": "libx265", "x265-params": "log-level=none:bframes=4"},
    "layers.mp4": {"codec": "libx265", "x265-params": "log-level=none:temporal-layers=3:bframes=4"},
    "vp8.webm": {"codec": "libvpx", "deadline": "realtime"},
    "vp9.webm": {"codec": "libvpx-vp9", "deadline": "realtime", "cpu-used": "8"},
    "av1.mp4": {"codec": "libsvtav1", "preset": "12"},
    "mpeg4.avi": {"codec": "mpeg4", "bf": "2"},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": "2"},
    "mpeg2.ts": {"codec": "mpeg2video", "bf": "2"},
    "flv1.flv": {"codec": "flv1"},
    "gif.gif": {"codec": "gif", "pix_fmt": "rgb8"},
}
"""Name -> how it is written; pictures are yuv420p unless it says otherwise."""
