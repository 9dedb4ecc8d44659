"""Which arguments of vLLM `engine_args` may not hold: those with a setting of their own here, and those that
run code from elsewhere, read files for whoever asks, or are secrets.

They are known by every spelling that vLLM takes: `--trust-remote-code`, `Trust_Remote_Code`, or the beginning
of a name, which vLLM's command line completes. Checked against the arguments of vLLM 0.32.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_SET_ELSEWHERE = {
    "model": "model",
    "served_model_name": "model",
    "revision": "revision",
    "dtype": "dtype",
    "quantization": "quantization",
    "seed": "seed",
    "tensor_parallel_size": "tensor_parallel_size",
    "mm_processor_kwargs": "max_pixels",
    "limit_mm_per_prompt": "num_frames",
    "structured_outputs_config": "structured",
    "trust_request_mm_kwargs": "frames_as",
    "host": "serve.host",
    "port": "serve.port",
    "uds": "serve.host",
    "api_key": "api_key_env",
}

_FURTHER = {"config": "would read further arguments from a file"}
"""Of the command line alone."""
_CODE = "would run code that comes with a model"
_PLUGIN = "would run code that it names"
_LOG = "would run code that a file of log settings names"
_REFUSED = {
    "trust_remote_code": _CODE,
    "code_revision": _CODE,
    "auto_map": _CODE,
    "trust_request_chat_template": "would run templates that come with requests",
    "tool_server": "would run code that a model writes",
    "log_config_file": _LOG,
    "logging_config": _LOG,
    "worker_cls": _PLUGIN,
    "worker_extension_cls": _PLUGIN,
    "scheduler_cls": _PLUGIN,
    "model_class_overrides": _PLUGIN,
    "logits_processors": _PLUGIN,
    "logits_processor_pattern": _PLUGIN,
    "io_processor_plugin": _PLUGIN,
    "reasoning_parser_plugin": _PLUGIN,
    "tool_parser_plugin": _PLUGIN,
    "middleware": _PLUGIN,
    "inductor_passes": _PLUGIN,
    "kv_connector_module_path": _PLUGIN,
    "ec_connector_module_path": _PLUGIN,
    "allowed_local_media_path": "would let requests read files of the server",
    "allowed_media_domains": "would let requests make the server fetch files",
    "hf_token": "is a secret; set the environment variable HF_TOKEN",
}
_ENDINGS = ("_cls", "_class", "_plugin", "_plugins", "_module_path", "_passes")
"""Of names that belong to plugins, those of later versions too."""
_COMPLETE = frozenset({"reasoning_parser"})
"""Arguments whose names begin a refused one."""
_VALUES = {"tokenizer_mode": "custom", "load_format": "plugin"}
"""Argument -> what its value may not hold."""
_IMPORTED = re.compile(r"backend|executor|connector|model|processor|scheduler")
"""Arguments that take `package.module.Class` beside names of vLLM's own."""
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)+")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def check_engine_args(args: Mapping[str, Any]) -> None:
    """Make sure that the arguments change how fast vLLM is, and nothing else.

    Raises:
        ValueError: one may not be there; the message names it as it is spelled.
    """
    for name, value in args.items():
        plain = _plain(name)
        if plain in _SET_ELSEWHERE:
            raise ValueError(f"engine_args.{name} is set by {_SET_ELSEWHERE[plain]}")
        why = _why_completed(plain)
        if why is not None:
            raise ValueError(f"engine_args.{name} {why}")
        for path, item in _settings(name, value):
            why = _why_refused(_plain(path[-1]), item)
            if why is not None:
                raise ValueError(f"engine_args.{'.'.join(path)} {why}")
        if not _NAME.fullmatch(name):
            raise ValueError(f"engine_args.{name} is no argument's name; write it like max_num_seqs")


def _plain(name: str) -> str:
    """The name as Python spells it, whatever the case and the dashes."""
    return re.sub(r"[-.]", "_", name.strip().lower()).strip("_+")


def _settings(name: str, value: Any, *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """An argument and what is in it, however deep, each with its path of names."""
    path = (*above, name)
    yield path, value
    if isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _settings(str(inner), item, *path)
    elif isinstance(value, list):
        for item in value:
            yield from _settings(name, item, *above)


def _why_completed(plain: str) -> str | None:
    """VLLM's command line takes the beginning of a name for the name."""
    if plain in _COMPLETE:
        return None
    return next((why for refused, why in {**_REFUSED, **_FURTHER}.items() if refused.startswith(plain)), None)


def _why_refused(plain: str, value: Any) -> str | None:
    for refused, why in _REFUSED.items():
        if f"_{plain}".endswith(f"_{refused}"):
            return why
    if plain.endswith(_ENDINGS):
        return _PLUGIN
    if not isinstance(value, str):
        return None
    if _IMPORTED.search(plain) and _IMPORT_PATH.fullmatch(value.strip()):
        return f"would import {value}"
    if value.lstrip().startswith(("{", "[")):
        return "hides settings in a text; write them in YAML"
    return _PLUGIN if _VALUES.get(plain, "\n") in value.lower() else None
