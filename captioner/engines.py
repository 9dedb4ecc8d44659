"""Who answers: a server that speaks OpenAI's chat API, vLLM in this process, or a stand-in."""

from __future__ import annotations

import base64
import http.client
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from curation.errors import CaptionError, EnvironmentFault, MissingDependencyError, WorkerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAND_IN_MODEL = "stand-in (untrained)"


@dataclass(frozen=True)
class Question:
    """One prompt with its frames, [T, H, W, 3] uint8 RGB."""

    prompt: str
    frames: NDArray[np.uint8]
    kind: str
    seconds: float


@dataclass(frozen=True)
class Answer:
    """What came back."""

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_output_tokens: int


class Engine(Protocol):
    """Answers questions, in order.

    Raises:
        CaptionError: the model refuses or answers nonsense about one sample.
        WorkerError: the engine itself is broken.
    """

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer per question."""


class StandInEngine:
    """Describes what can be computed, and says that no model looked at the picture."""

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        height, width = question.frames.shape[1:3]
        luma = float(question.frames.mean())
        light = "dark" if luma < 85 else "bright" if luma > 170 else "evenly lit"
        what = "an image" if question.kind == "image" else f"{question.seconds:.1f} seconds of video"
        text = f"[stand-in caption, no model looked at this] {what}, {width} by {height} pixels, {light}."
        return Answer(text, "stop", len(question.prompt.split()), len(text.split()))


class OpenAIEngine:
    """A server with OpenAI's chat completions API, such as `vllm serve`.

    Busy or unreachable servers are asked again with growing pauses.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None,
        *,
        max_tokens: int,
        seed: int,
        timeout_s: float,
        pauses_s: Sequence[float] = (1, 2, 4, 8, 16),
    ) -> None:
        """`pauses_s` are the seconds before each further attempt."""
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._fixed = {"model": model, "max_tokens": max_tokens, "temperature": 0.0, "seed": seed}
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s
        self._pauses_s = pauses_s

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        content = [{"type": "image_url", "image_url": {"url": _data_url(frame)}} for frame in question.frames]
        message = {"role": "user", "content": [*content, {"type": "text", "text": question.prompt}]}
        reply = self._post({**self._fixed, "messages": [message]})
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

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  the scheme is checked by the configuration
            self._url, json.dumps(body).encode(), self._headers
        )
        problem = ""
        for pause_s in (*self._pauses_s, 0):
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_s) as response:  # noqa: S310
                    reply: dict[str, Any] = json.load(response)
                    return reply
            except urllib.error.HTTPError as error:
                with error:
                    problem = f"{error.code}: {error.read(300).decode(errors='replace')}"
                if error.code in (401, 403, 404):
                    raise EnvironmentFault(f"the caption server refuses everything: {problem}") from error
                if error.code not in (408, 429, 500, 502, 503, 504):
                    raise CaptionError(f"the server refused: {problem}") from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = str(error)
            time.sleep(pause_s)
        raise WorkerError(f"no answer from {self._url}: {problem}")


class VLLMEngine:
    """vLLM in this process; it sees all questions of a batch at once."""

    def __init__(self, model: Path, *, device: str, max_tokens: int, seed: int, max_frames: int) -> None:
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise MissingDependencyError(
                "engine: vllm needs the package vllm: pip install 'curation[caption]'"
            ) from error
        self._llm = LLM(
            model=str(model),
            seed=seed,
            dtype="bfloat16" if device == "cuda" else "float32",
            limit_mm_per_prompt={"image": max_frames},
        )
        self._params = SamplingParams(temperature=0.0, max_tokens=max_tokens, seed=seed)

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        chats = [
            [
                {
                    "role": "user",
                    "content": [
                        *(
                            {"type": "image_url", "image_url": {"url": _data_url(frame)}}
                            for frame in item.frames
                        ),
                        {"type": "text", "text": item.prompt},
                    ],
                }
            ]
            for item in questions
        ]
        results = self._llm.chat(chats, self._params, use_tqdm=False)
        return [
            Answer(
                text=result.outputs[0].text,
                finish_reason=result.outputs[0].finish_reason or "unknown",
                num_prompt_tokens=len(result.prompt_token_ids or ()),
                num_output_tokens=len(result.outputs[0].token_ids),
            )
            for result in results
        ]


def _data_url(frame: NDArray[np.uint8]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=92)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
