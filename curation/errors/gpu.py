"""What errors of CUDA and its libraries mean for a run, whichever package says them: torch, ONNX, Paddle.

    fault = gpu_fault(error)        # None if a sample is to blame, or no GPU has to do with it

Told by their classes' names and by their texts, so that none of these packages is imported here.
"""

from __future__ import annotations

import re

from curation.errors.errors import CurationError, DeviceMemoryFault, EnvironmentFault, WorkerError

_MEMORY_CLASSES = frozenset({"OutOfMemoryError"})
_CUDA_CLASSES = frozenset({"AcceleratorError", "CudaError", "NVMLError"})
_CUDA_TEXT = re.compile(
    r"\bCUDA (?:driver )?(?:error|failure)\b|\b(?:CUDNN|CUBLAS|CUSOLVER|CUFFT|CURAND|CUSPARSE)_STATUS_"
    r"|\bNCCL (?:error|failure)\b|\bNVML\b|\bno CUDA-capable device|\bNo CUDA GPUs are available"
    r"|\bNVIDIA driver\b"
)
_MEMORY = re.compile(
    r"\b(?:CUDA|GPU)\b.*\bout of memory\b|\bout of memory\b.*\b(?:CUDA|GPU)\b|_STATUS_ALLOC_FAILED\b"
    r"|\bunable to find (?:an engine|a valid cuDNN algorithm)",
    re.IGNORECASE,
)
"""cuDNN finds no algorithm where none has room for its workspace."""
_LOST_CONTEXT = re.compile(
    r"device-side assert|illegal memory access|illegal instruction|misaligned address|hardware stack error"
    r"|not supported on global/shared address space|invalid program counter|_STATUS_EXECUTION_FAILED"
)
"""A kernel went wrong, perhaps over what it was given. Nothing works in this process any more."""
_OF_A_SAMPLE = re.compile(
    r"\binvalid (?:configuration )?argument|\btoo many (?:resources|blocks)\b.* launch"
    r"|_STATUS_(?:NOT_SUPPORTED|BAD_PARAM|INVALID_VALUE)"
)
"""A kernel was refused for what it was to work on, such as a shape; the next one works."""


def gpu_fault(error: BaseException) -> CurationError | None:
    """What to raise in place of an error that a GPU, its driver or its libraries made.

    Returns:
        DeviceMemoryFault: there was too little memory.
        WorkerError: the process can't use its GPU any more, perhaps over what it measured: another one tells.
        EnvironmentFault: the GPU, the driver or a library has failed, or is not there.
        None: it is none of these.
    """
    names = {base.__name__.partition("_")[0] for base in type(error).__mro__}
    text = " ".join(str(error).split())
    said = f"the GPU: {type(error).__name__}: {text}"
    has_class = bool(names & _CUDA_CLASSES)
    if names & _MEMORY_CLASSES or _MEMORY.search(text) or (has_class and "out of memory" in text):
        return DeviceMemoryFault(text)
    if not (has_class or _CUDA_TEXT.search(text)) or _OF_A_SAMPLE.search(text):
        return None
    return WorkerError(said) if _LOST_CONTEXT.search(text) else EnvironmentFault(said)
