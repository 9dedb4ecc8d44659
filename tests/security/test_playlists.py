"""What a file's content may make FFmpeg and Pillow open: nothing but the file."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from curation.errors import SampleError
from curation.media.decode import decode_video, probe_video
from curation.media.image import probe_image, read_image
from datasets_media import write_video

SUFFIXES = (".mp4", ".mkv", ".ts", ".avi")


class Listener:
    """A port on loopback that counts who connects."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.num_connections = 0
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.num_connections += 1
            connection.close()

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    found = Listener()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video that no input holds, as MP4 and as a transport stream."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name in ("s.mp4", "s.ts"):
        write_video(folder / name, [(10, 1)])
    return folder


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>{}</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>'
)
SCRIPTS = {
    "HLS of a URL": HLS.format("http://127.0.0.1:PORT/a.ts"),
    "HLS of a file": HLS.format("SECRET/s.ts"),
    "HLS of a file URL": HLS.format("file://SECRET/s.ts"),
    "HLS with a key": HLS.format("SECRET/s.ts").replace(
        "#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="http://127.0.0.1:PORT/key"\n#EXTINF'
    ),
    "concat of a file": "ffconcat version 1.0\nfile 'SECRET/s.mp4'\n",
    "concat of a file beside": "ffconcat version 1.0\nfile 'beside/s.mp4'\n",
    "concat of a URL": "ffconcat version 1.0\nfile 'http://127.0.0.1:PORT/a.mp4'\n",
    "DASH of a URL": DASH.format("http://127.0.0.1:PORT/a.mp4"),
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video PORT RTP/AVP 33\n",
    "RTSP redirect": "rtsp://127.0.0.1:PORT/a\n",
    "SVG": '<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:PORT/a.png"/></svg>',
}


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".m3u8", ".mpd"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_playlist_opens_nothing(
    tmp_path: Path, secret: Path, listener: Listener, script: str, suffix: str
) -> None:
    shutil.copytree(secret, tmp_path / "beside")
    path = tmp_path / f"a{suffix}"
    path.write_text(SCRIPTS[script].replace("SECRET", str(secret)).replace("PORT", str(listener.port)))
    with pytest.raises(SampleError):
        probe_video(path)
    with pytest.raises(SampleError):
        list(decode_video(path))
    with pytest.raises(SampleError):
        probe_image(path)
    assert listener.num_connections == 0


@pytest.mark.parametrize(
    "name", ["concat:beside.mp4|beside.mp4", "subfile,,start,0,end,0,,:beside.mp4", "a%03d.mp4"]
)
def test_a_name_is_never_a_protocol(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Where the input is `.`, the path of such a file is what FFmpeg would take for a URL."""
    monkeypatch.chdir(tmp_path)
    write_video(Path("beside.mp4"), [(20, 2)])
    Path(name).write_bytes((secret / "s.mp4").read_bytes())
    assert probe_video(Path(name)).num_frames == 10


@pytest.mark.parametrize("name", ["a.jpg", "a.eps", "a.png"])
def test_a_picture_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Pillow has Ghostscript draw an EPS, whatever it is called."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/was_started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / name
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    for read in (probe_image, read_image):
        with pytest.raises(SampleError):
            read(path)
    assert not (tmp_path / "was_started").exists()
