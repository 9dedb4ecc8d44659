"""Arguments for vLLM that would do more than change its speed. Their names are those of vLLM 0.32."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from curation.captioner.engine_args import check_engine_args
from curation.captioner.settings import CaptionConfig


@pytest.mark.parametrize("engine", ["vllm", "serve"])
@pytest.mark.parametrize(
    "name",
    [
        "trust_remote_code",
        "trust-remote-code",
        "--trust-remote-code",
        "Trust_Remote_Code",
        "TRUST-REMOTE-CODE",
        " trust_remote_code",
        "trust_remote",  # vLLM's command line completes it
        "trust",
        "hf_overrides.trust_remote_code",  # vLLM's command line takes it apart
    ],
)
@pytest.mark.parametrize("value", [True, "true", 1])
def test_every_spelling_of_trust_remote_code_is_refused(engine: Any, name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match="would run code that comes with a model"):
        CaptionConfig(engine=engine, model="m", engine_args={name: value})


@pytest.mark.parametrize(
    "name",
    [
        "code_revision",
        "worker_cls",
        "worker-cls",
        "worker_c",
        "worker_extension_cls",
        "scheduler_cls",
        "model_class_overrides",
        "logits_processors",
        "io_processor_plugin",
        "reasoning_parser_plugin",
        "tool_parser_plugin",
        "some_later_plugin",
        "middleware",
        "tool_server",
        "log_config_file",
        "logging_config",
        "config",
        "allowed_local_media_path",
        "allowed_media_domains",
        "trust_request_chat_template",
        "hf_token",
    ],
)
def test_what_brings_code_files_or_secrets_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"engine_args.{name} (would|is a secret)"):
        check_engine_args({name: "x"})


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (
            {"hf_overrides": {"a": [{"trust_remote_code": True}]}},
            "hf_overrides.a.trust_remote_code would",
        ),
        ({"hf_overrides": {"auto_map": {"AutoModel": "m.C"}}}, "hf_overrides.auto_map would run code"),
        ({"compilation_config": {"backend": "a.b"}}, "compilation_config.backend would import a.b"),
        ({"compilation_config": {"inductor_passes": {"x": "y"}}}, "inductor_passes would run code"),
        ({"kv_transfer_config": {"kv_connector_module_path": "x"}}, "module_path would run code"),
        ({"distributed_executor_backend": "a.b.C"}, "would import a.b.C"),
        ({"speculative_config": {"model": "package.Proposer"}}, "would import package.Proposer"),
        ({"hf_overrides": '{"trust_remote_code": true}'}, "hides settings in a text"),
        ({"tokenizer_mode": "custom"}, "tokenizer_mode would run code"),
        ({"max-num-seqs": 8}, "is no argument's name; write it like max_num_seqs"),
        ({"q": "fp8", "Seed": 1}, "engine_args.Seed is set by seed"),
    ],
)
def test_what_hides_deeper_is_found(args: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_engine_args(args)


def test_arguments_that_change_speed_are_taken() -> None:
    check_engine_args(
        {
            "max_num_seqs": 64,
            "gpu_memory_utilization": 0.9,
            "distributed_executor_backend": "ray",
            "attention_backend": "FLASH_ATTN",
            "master_addr": "node1.cluster.local",
            "reasoning_parser": "qwen3",
            "compilation_config": {"mode": 3, "cudagraph_mode": "FULL", "splitting_ops": ["vllm::attention"]},
            "speculative_config": {"model": "org/a-0.5B", "num_speculative_tokens": 3},
            "kv_transfer_config": {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"},
        }
    )


def test_key_in_place_of_its_variables_name_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValidationError, match="is to name an environment variable") as caught:
        CaptionConfig(engine="openai", model="m", url="http://h/v1", api_key_env="sk-12345")
    assert "sk-12345" not in str(caught.value.errors(include_input=False, include_url=False))
