"""Captions by a server with OpenAI's API that somebody else runs, such as `vllm serve`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from curation.captioner.engines.base import Answer, AnswerSettings, Engine, Question
from curation.captioner.engines.chat import ChatClient, RetryPolicy
from curation.captioner.settings import CaptionConfig
from curation.config.problems import checked
from curation.errors import CaptionError
from curation.stage import Setup, StageConfig

_ASKING_RETRY_S = 60.0
"""How long `label ask`, at which somebody sits and waits, goes on asking a server that is away."""


class OpenAIEngine(Engine[StageConfig]):
    """Asks the server at `url` for the model that it knows as `model`.

    Which weights the server has is unknown: what is known of them are the settings `model` and `revision`.
    """

    def check(self) -> None:
        self.require("model", "url")

    def setup(self, setup: Setup, sampling: AnswerSettings) -> None:
        config = self.config
        self._client = ChatClient(
            self._address,
            config.model,
            sampling,
            retry=RetryPolicy(config.timeout_s, config.retry_for_s),
            concurrency=config.concurrency,
            image_format=config.image_format,
        )

    def _address(self) -> tuple[str, str | None]:
        return self.config.url or "", os.environ.get(self.config.api_key_env)

    def answer(self, questions: Sequence[Question]) -> list[Answer | CaptionError]:
        return self._client.answer(questions)


def server_engine(url: str, model: str, api_key_env: str, concurrency: int) -> OpenAIEngine:
    """An engine for plain questions outside of a run, at a server with OpenAI's API.

    Raises:
        ConfigError: there can be no such server.
    """
    server = {"url": url, "model": model, "api_key_env": api_key_env, "concurrency": concurrency}
    asked = {"engine": "openai", "retry_for_s": _ASKING_RETRY_S, **server}
    config: CaptionConfig = checked(CaptionConfig, "", asked)
    engine = OpenAIEngine(config)
    engine.setup(Setup("cpu", {}), AnswerSettings(config.max_tokens))
    return engine
