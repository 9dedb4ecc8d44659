"""A stand-in of the Hugging Face Hub on loopback: as much of its HTTP API as data sets need.

Tests can't reach the real Hub. The real huggingface_hub talks to this instead: what is tested is that client
and our use of it, against the API as that client's code and the Hub's documentation have it. Left out is Xet,
the Hub's newer way to store large files: with HF_HUB_DISABLE_XET the client uploads by Git LFS.

    with HubStandIn() as hub:
        commit = hub.push("org/photos", {"a.jpg": b"..."})
        hub.url                                     # for HF_ENDPOINT
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import LoopbackServer, QuietHandler

READ_TOKEN, WRITE_TOKEN = "hf_test_read_token", "hf_test_write_token"
LARGE_SUFFIXES = (".parquet", ".tar", ".bin", ".mp4", ".jpg", ".png")
"""Files that a new data set keeps as large ones, by its .gitattributes."""
PAGE = 3
"""Entries of a page of a listing."""


def git_hash(data: bytes) -> str:
    """Git's hash of a file (git hash-object)."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class DataSet:
    """A data set: commits with their files, and which commit each branch has."""

    is_private: bool = False
    is_gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: Mapping[str, bytes], message: str) -> str:
        """Put these files in the place of all that the branch has."""
        self.messages.append(message)
        name = hashlib.sha1(
            f"{len(self.messages)}{sorted(files)}".encode(), usedforsecurity=False
        ).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name


class HubStandIn:
    """The Hub and, at another port, where its large files lie.

    Attributes:
        data_sets: "org/name" -> data set.
        asked: Method and path of all requests, in order; of downloads with their range.
        fails_with: HTTP statuses of the next answers.
        retry_after_s: What these ask clients to wait, if it is not 0.
        num_sent: Bytes of files that were sent.
        large_suffixes: Files that are kept as large ones.
        before_commit: Called before a commit is made.
        fails_at_upload, fails_at_commit: Whether large files and commits are refused.
        uploaded: SHA-256 of large files, each as often as it was uploaded.
        tokens_elsewhere: What came as authorization to where large files lie. The Hub's token must not.
        cards: Texts that were sent to have their YAML checked.
    """

    def __init__(self) -> None:
        self.data_sets: dict[str, DataSet] = {}
        self.asked: list[str] = []
        self.fails_with: list[int] = []
        self.retry_after_s = 0
        self.num_sent = 0
        self.can_answer = threading.Event()
        self.can_answer.set()
        self.silent_to = ""
        self.large_suffixes = LARGE_SUFFIXES
        self.before_commit: Callable[[], object] = bool
        self.fails_at_upload = self.fails_at_commit = False
        self.uploaded: list[str] = []
        self.tokens_elsewhere: list[str] = []
        self.cards: list[str] = []
        self.large: dict[str, bytes] = {}
        self._hub = self._start()
        self._files = LoopbackServer(type("Handler", (_LargeFiles,), {"stand_in": self}))
        self.url, self.files_url = self._hub.url, self._files.url

    def _start(self, port: int = 0) -> LoopbackServer:
        return LoopbackServer(type("Handler", (_Hub,), {"stand_in": self}), port=port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop serving."""
        self._hub.stop()
        self._files.stop()

    def away_for(self, seconds: float) -> threading.Thread:
        """Nobody listens at its address from now on, until this thread has ended."""
        port = urlsplit(self.url).port or 0
        self._hub.stop()

        def come_back() -> None:
            time.sleep(seconds)
            self._hub = self._start(port)

        thread = threading.Thread(target=come_back)
        thread.start()
        return thread

    @contextmanager
    def silent(self, to: str = "") -> Iterator[None]:
        """It takes requests with this text in their paths, and answers none of them before the end."""
        self.silent_to = to
        self.can_answer.clear()
        try:
            yield
        finally:
            self.can_answer.set()

    def push(self, name: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Put files in the place of all that a data set has, and make it if there is none; the commit."""
        data_set = self.data_sets.setdefault(name, DataSet())
        return data_set.commit(branch, files, "push")

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        """What a branch has."""
        data_set = self.data_sets[name]
        return data_set.commits[data_set.branches[branch]]


class _Refusal(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


class _Handler(QuietHandler):
    stand_in: HubStandIn

    def answer(self, value: Any, **headers: str) -> None:
        self.send(200, json.dumps(value).encode(), **headers)

    def body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def send_part(self, data: bytes, **headers: str) -> None:
        """Answer with data, or the range of it that is asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if asked is None:
            self.stand_in.num_sent += len(data)
            self.send(200, data, **headers)
            return
        start, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
        if start >= len(data):
            self.send(416, b"", **{"Content-Range": f"bytes */{len(data)}"}, **headers)
            return
        said = {"Content-Range": f"bytes {start}-{last}/{len(data)}"}
        self.stand_in.num_sent += last + 1 - start
        self.send(206, data[start : last + 1], **said, **headers)


class _LargeFiles(_Handler):
    def do_GET(self) -> None:
        self._note_token()
        sha256 = self.path.rpartition("/")[2]
        self.send_part(self.stand_in.large[sha256], ETag=f'"of-the-store-{sha256[:8]}"')

    def do_PUT(self) -> None:
        self._note_token()
        data, sha256 = self.body(), self.path.rpartition("/")[2]
        if self.stand_in.fails_at_upload:
            self.send(403, b"")
            return
        assert hashlib.sha256(data).hexdigest() == sha256
        self.stand_in.large[sha256] = data
        self.stand_in.uploaded.append(sha256)
        self.send(200, b"")

    def _note_token(self) -> None:
        self.stand_in.tokens_elsewhere += filter(None, [self.headers["Authorization"]])


class _Hub(_Handler):
    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        body = self.body() if method == "POST" else b""
        path = urlsplit(self.path).path
        span = f" {self.headers['Range']}" if self.headers["Range"] else ""
        self.stand_in.asked.append(f"{method} {unquote(path)}{span}")
        if not self.stand_in.can_answer.is_set() and self.stand_in.silent_to in path:
            self.stand_in.can_answer.wait()
            self.close_connection = True
            return
        if self.stand_in.fails_with:
            wait_s = self.stand_in.retry_after_s
            said = {"Retry-After": str(wait_s)} if wait_s else {}
            self.send(self.stand_in.fails_with.pop(0), b"{}", **said)
            return
        for pattern, serve in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found is not None:
                self._try(serve, body, {key: unquote(text or "") for key, text in found.groupdict().items()})
                return
        self.send(404, b"{}")

    def _try(self, serve: Any, body: bytes, said: Mapping[str, str]) -> None:
        try:
            serve(self, body, **said)
        except _Refusal as refusal:
            self.send(refusal.status, b"{}", **refusal.headers)

    def token(self) -> str:
        return (self.headers["Authorization"] or "").removeprefix("Bearer ")

    def data_set(self, name: str, *, to_write: bool = False) -> DataSet:
        """As the Hub does: who has no token is told 401 of what he may not see, as of what is not there."""
        found = self.stand_in.data_sets.get(name)
        if self.token() not in ("", READ_TOKEN, WRITE_TOKEN):
            raise _Refusal(401, message="Invalid credentials in Authorization header")
        if found is None or (found.is_private and not self.token()):
            raise _Refusal(404 if self.token() else 401, "RepoNotFound", "Repository not found")
        if to_write and self.token() != WRITE_TOKEN:
            raise _Refusal(403, message="you have no right to write")
        return found

    def commit(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        data_set = self.data_set(name)
        if data_set.is_gated and self.token() != WRITE_TOKEN:
            raise _Refusal(403 if self.token() else 401, "GatedRepo", "Access is restricted")
        commit = data_set.branches.get(revision, revision)
        if commit not in data_set.commits:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, data_set.commits[commit]

    def info(self, _: bytes, name: str, revision: str = "") -> None:
        data_set = self.data_set(name)
        branch = revision or "main"
        commit = data_set.branches.get(branch, branch)
        if commit not in data_set.commits:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        self.answer({"id": name, "sha": commit, "private": data_set.is_private, "siblings": [], "tags": []})

    def tree(self, _: bytes, name: str, revision: str, path: str = "") -> None:
        _, files = self.commit(name, revision)
        below = sorted(key for key in files if not path or key.startswith(f"{path}/"))
        if path and not below:
            raise _Refusal(404, "EntryNotFound", f"{path} does not exist")
        entries = [_entry(key, files[key]) for key in below]
        entries += [
            {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            for folder in {key.rpartition("/")[0] for key in below} - {"", path}
        ]
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        more = f'<{self.stand_in.url}{urlsplit(self.path).path}?cursor={start + PAGE}>; rel="next"'
        links = {"Link": more} if start + PAGE < len(entries) else {}
        self.answer(entries[start : start + PAGE], **links)

    def paths_info(self, body: bytes, name: str, revision: str) -> None:
        _, files = self.commit(name, revision)
        paths = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
        folders = [path for path in paths if any(key.startswith(f"{path}/") for key in files)]
        self.answer(
            [_entry(path, files[path]) for path in paths if path in files]
            + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]
        )

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        commit, files = self.commit(name, revision)
        if path not in files:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        data, said = files[path], {"X-Repo-Commit": commit}
        if not path.endswith(LARGE_SUFFIXES):
            self.send_part(data, **said, ETag=f'"{git_hash(data)}"')
            return
        sha256 = hashlib.sha256(data).hexdigest()
        self.stand_in.large[sha256] = data
        linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
        self.send(302, b"", Location=f"{self.stand_in.files_url}/{sha256}", **linked, **said)

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if self.token() != WRITE_TOKEN:
            raise _Refusal(403 if self.token() else 401, message="you have no right to create")
        if name in self.stand_in.data_sets:
            raise _Refusal(409, message="You already created this dataset repo")
        made = self.stand_in.data_sets[name] = DataSet(is_private=asked.get("visibility") == "private")
        made.commit("main", {".gitattributes": b"*.parquet filter=lfs\n"}, "initial commit")
        self.answer({"url": f"{self.stand_in.url}/datasets/{name}"})

    def branch(self, _: bytes, name: str, branch: str) -> None:
        data_set = self.data_set(name, to_write=True)
        if branch in data_set.branches:
            raise _Refusal(409, message="branch exists")
        data_set.branches[branch] = data_set.branches["main"]
        self.send(200, b"")

    def check_card(self, body: bytes) -> None:
        """Make sure of a header in YAML. The real Hub also looks at what is in it."""
        import yaml

        text = json.loads(body)["content"]
        self.stand_in.cards.append(text)
        header = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        if header is None or not isinstance(yaml.safe_load(header[1]), dict):
            self.send(400, json.dumps({"errors": [{"message": "no YAML header"}], "warnings": []}).encode())
            return
        self.answer({"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        self.data_set(name, to_write=True)
        _, files = self.commit(name, revision)
        self.answer(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs"
                        if file["path"].endswith(self.stand_in.large_suffixes)
                        else "regular",
                        "shouldIgnore": False,
                        "oid": _oid(file["path"], files[file["path"]]) if file["path"] in files else None,
                    }
                    for file in json.loads(body)["files"]
                ]
            }
        )

    def large_files(self, body: bytes, name: str) -> None:
        self.data_set(name, to_write=True)
        self.answer(
            {
                "transfer": "basic",
                "objects": [
                    {**item, "actions": {"upload": {"href": f"{self.stand_in.files_url}/{item['oid']}"}}}
                    if item["oid"] not in self.stand_in.large
                    else item
                    for item in json.loads(body)["objects"]
                ],
            }
        )

    def make_commit(self, body: bytes, name: str, revision: str) -> None:
        data_set = self.data_set(name, to_write=True)
        self.stand_in.before_commit()
        head, files = self.commit(name, revision)
        files = dict(files)
        if self.stand_in.fails_at_commit:
            raise _Refusal(507, message="no room")
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", head) != head:
            raise _Refusal(412, message="A commit has happened since. Please refresh and try again.")
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.stand_in.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = data_set.commit(revision, files, header["summary"])
        url = f"{self.stand_in.url}/datasets/{name}/commit/{commit}"
        self.answer({"success": True, "commitOid": commit, "commitUrl": url})


def _oid(path: str, data: bytes) -> str:
    is_large = path.endswith(LARGE_SUFFIXES)
    return hashlib.sha256(data).hexdigest() if is_large else git_hash(data)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as a listing shows it: of a large one, Git has a pointer alone."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
    if not path.endswith(LARGE_SUFFIXES):
        return {**entry, "oid": git_hash(data)}
    sha256 = hashlib.sha256(data).hexdigest()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
        sha256.encode(),
        len(data),
    )
    lfs = {"oid": sha256, "size": len(data), "pointerSize": len(pointer)}
    return {**entry, "oid": git_hash(pointer), "lfs": lfs}


_NAME = r"(?P<name>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, Any]] = [
    (rf"/api/datasets/{_NAME}(?:/revision/(?P<revision>[^/]+))?", _Hub.info),
    (rf"/api/datasets/{_NAME}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", _Hub.tree),
    (rf"/api/datasets/{_NAME}/paths-info/(?P<revision>[^/]+)", _Hub.paths_info),
    (rf"/datasets/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.*)", _Hub.resolve),
    (r"/api/repos/create", _Hub.create),
    (rf"/api/datasets/{_NAME}/branch/(?P<branch>[^/]+)", _Hub.branch),
    (r"/api/validate-yaml", _Hub.check_card),
    (rf"/api/datasets/{_NAME}/preupload/(?P<revision>[^/]+)", _Hub.preupload),
    (rf"/datasets/{_NAME}\.git/info/lfs/objects/batch", _Hub.large_files),
    (rf"/api/datasets/{_NAME}/commit/(?P<revision>[^/]+)", _Hub.make_commit),
]
