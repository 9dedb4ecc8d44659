"""A server that speaks OpenAI's chat completions API, such as `vllm serve`."""

from __future__ import annotations

import base64
import io
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx2

from curation.captioner.engines.base import Answer, AnswerSettings, Question
from curation.errors import CaptionError, EnvironmentFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_REFUSES_ALL = (401, 403, 404)
_AWAY = (408, 425, 429, 502, 503, 504)
_MAX_ERRORS = 4
"""A question that the server met with an internal error, or broke off over, this many times has failed."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long to go on asking a server that is busy or away.

    Attributes:
        timeout_s: For the answer to one request.
        total_s: From the first failure of a request.
        first_pause_s, longest_pause_s: Pauses double from one to the other, each shortened or lengthened by
            up to a half at random, so that workers do not come back all at once.
    """

    timeout_s: float = 300.0
    total_s: float = 900.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 20.0


class _Again(Exception):
    """The server is to be asked again."""

    def __init__(self, problem: str, *, pause_s: float = 0.0, is_about_question: bool = False) -> None:
        super().__init__(problem)
        self.pause_s = pause_s
        self.is_about_question = is_about_question


class ChatClient:
    """Keeps up to `concurrency` requests under way, so that the server can batch them."""

    def __init__(
        self,
        locate: Callable[[], tuple[str, str | None] | None],
        model: str,
        sampling: AnswerSettings,
        *,
        retry: RetryPolicy | None = None,
        concurrency: int = 32,
        image_format: str = "jpeg",
        is_own: bool = False,
    ) -> None:
        """`locate` gives the server's URL and its key, if it wants one, and is asked again when the server is
        away; None while it starts again. `is_own`: the run started it, so no proxy stands between.
        """
        self._locate = locate
        self._address = locate()
        self._model = model
        self._sampling = sampling
        self._retry = retry or RetryPolicy()
        self._concurrency = concurrency
        self._image_format = image_format
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._open = partial(
            httpx2.Client,
            timeout=self._retry.timeout_s,
            limits=limits,
            trust_env=not is_own,
        )
        self._stopped = threading.Event()

    def answer(self, questions: Sequence[Question]) -> list[Answer | CaptionError]:
        """An answer per question, in order; an error that concerns one question stands in its place.

        Raises:
            EnvironmentFault: the server is away, or refuses everything.
        """
        self._stopped.clear()
        with self._open() as client, ThreadPoolExecutor(self._concurrency) as pool, self._ending():
            return list(pool.map(partial(self._answer, client), questions))

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Threads that wait for a server that is away give up when this one leaves, by Ctrl-C for example."""
        try:
            yield
        finally:
            self._stopped.set()

    def _answer(self, client: httpx2.Client, question: Question) -> Answer | CaptionError:
        try:
            return self._patiently(client, self._body(question))
        except CaptionError as error:
            return error
        except EnvironmentFault:
            self._stopped.set()
            raise

    def _patiently(self, client: httpx2.Client, body: dict[str, Any]) -> Answer:
        retry = self._retry
        pause_s, num_errors, give_up_at = retry.first_pause_s, 0, None
        while True:
            try:
                return self._ask(client, body)
            except _Again as again:
                num_errors += again.is_about_question
                if num_errors >= _MAX_ERRORS:
                    raise CaptionError(f"the server failed {num_errors} times: {again}") from again
                now = time.monotonic()
                give_up_at = give_up_at or now + retry.total_s
                # Jitter is no cryptography.
                wait_s = max(pause_s * random.uniform(0.5, 1.5), again.pause_s)
                if now + wait_s > give_up_at or self._stopped.wait(wait_s):
                    where = _endpoint(self._address[0]) if self._address else "the caption server"
                    raise EnvironmentFault(
                        f"no answer from {where} for {retry.total_s:g} s: {again}; what was "
                        "captioned is kept, and the same command goes on from there"
                    ) from again
                pause_s = min(2 * pause_s, retry.longest_pause_s)
                self._address = self._locate()

    def _ask(self, client: httpx2.Client, body: dict[str, Any]) -> Answer:
        address = self._address
        if address is None:
            raise _Again("it is starting again")
        url, key = address
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            response = client.post(_endpoint(url), json=body, headers=headers)
        except (httpx2.ConnectError, httpx2.TimeoutException) as error:
            raise _Again(str(error) or type(error).__name__) from error
        except httpx2.TransportError as error:
            # It may be this very question that the server does not survive.
            raise _Again(f"the connection broke off: {error}", is_about_question=True) from error
        status, said = response.status_code, f"{response.status_code}: {response.text[:300]}"
        if status in _REFUSES_ALL:
            raise EnvironmentFault(f"the caption server refuses everything: {said}")
        if status in _AWAY:
            raise _Again(said, pause_s=_retry_after_s(response))
        if status >= 500:
            raise _Again(said, is_about_question=True)
        if status != 200:
            raise CaptionError(f"the server refused: {said}")
        try:
            reply = response.json()
        except ValueError as error:
            raise _Again(f"no JSON: {said}", is_about_question=True) from error
        return _parsed(reply)

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": self._sampling.max_tokens,
            "temperature": question.temperature,
            "seed": question.seed,
        }
        if self._sampling.frames_as == "video" and question.kind == "clip":
            # vLLM's own: one item of JPEG frames. Their true rate tells the model when they are.
            frames = ",".join(_encoded(frame, "jpeg") for frame in question.frames)
            pictures = [
                {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}},
            ]
            body["media_io_kwargs"] = {"video": {"num_frames": -1, "fps": question.fps}}
        else:
            head = f"data:image/{self._image_format};base64,"
            pictures = [
                {"type": "image_url", "image_url": {"url": head + _encoded(frame, self._image_format)}}
                for frame in question.frames
            ]
        content = [*pictures, {"type": "text", "text": question.prompt}]
        body["messages"] = [{"role": "user", "content": content}]
        if self._sampling.schema is not None:
            schema = {"name": "caption", "strict": True, "schema": self._sampling.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body


def _endpoint(url: str) -> str:
    return f"{url.rstrip('/')}/chat/completions"


def _retry_after_s(response: httpx2.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdigit() else 0.0


def _parsed(reply: Any) -> Answer:
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        text = choice["message"]["content"] or ""
        text.encode()  # half of a surrogate pair is valid JSON and no text
        return Answer(
            text=text,
            finish_reason=choice.get("finish_reason") or "unknown",
            num_prompt_tokens=int(usage.get("prompt_tokens", 0)),
            num_output_tokens=int(usage.get("completion_tokens", 0)),
        )
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise CaptionError(f"the server's reply has no caption: {str(reply)[:200]}") from error


def _encoded(frame: NDArray[np.uint8], image_format: str) -> str:
    from PIL import Image

    file = io.BytesIO()
    options = {"quality": 92} if image_format == "jpeg" else {"compress_level": 1}
    Image.fromarray(frame).save(file, image_format, **options)
    return base64.b64encode(file.getvalue()).decode()
