"""Captions by a vLLM server that the run starts, watches and stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from curation.captioner.engines.base import ROLE, Answer, AnswerSettings, Engine, Question
from curation.captioner.engines.chat import ChatClient, RetryPolicy
from curation.captioner.engines.vllm import check_vllm, engine_arguments
from curation.captioner.server import KEY, URL, CaptionServer, ServeConfig
from curation.errors import CaptionError
from curation.pipeline.models import fetch
from curation.stage import ModelRef, Setup


class ServeEngine(Engine[ServeConfig]):
    """Asks the server of this run. vLLM may be in an environment of its own: `serve.python` names it."""

    Config = ServeConfig

    def check(self) -> None:
        check_vllm(self)

    def models(self) -> Sequence[ModelRef]:
        return (ModelRef(ROLE, self.config.model, self.config.revision),)

    def packages(self) -> Mapping[str, str]:
        return {"vllm": "caption"} if self.own.python is None else {}

    def distributions(self) -> Sequence[str]:
        return ("vllm",) if self.own.python is None else ()

    @classmethod
    def placement_settings(cls) -> set[str]:
        return set(ServeConfig.model_fields)

    def service(self) -> CaptionServer:
        return CaptionServer(self.config, self.own, self.arguments)

    def arguments(self, setup: Setup) -> dict[str, Any]:
        """Those of vLLM's server on the node where it is to run, which gets the model's files there."""
        return engine_arguments(self.config, fetch(self.models()[0], setup.revisions[ROLE]), setup)

    def setup(self, setup: Setup, sampling: AnswerSettings) -> None:
        config = self.config
        self._client = ChatClient(
            partial(_address, setup.services),
            config.model,
            sampling,
            retry=RetryPolicy(config.timeout_s, config.retry_for_s),
            concurrency=config.concurrency,
            image_format=config.image_format,
            is_own=True,
        )

    def answer(self, questions: Sequence[Question]) -> list[Answer | CaptionError]:
        return self._client.answer(questions)


def _address(services: Mapping[str, str]) -> tuple[str, str] | None:
    """URL and key of the server; None while it starts again."""
    url, key = services.get(URL), services.get(KEY)  # it may go away between the two
    return None if url is None or key is None else (url, key)
