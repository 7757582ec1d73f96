"""Starts the executor, or says in one sentence what keeps it from starting."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..seam import StartError
from .options import TensorRTLLMOptions

if TYPE_CHECKING:
    from .executor import TensorRTLLMExecutor

_ENVIRONMENT = {
    # From late 1.3 on the library reports to its maker unless told not to.
    "TRTLLM_NO_USAGE_STATS": "1",
    # One GPU needs no worker started through MPI: this process does nothing else.
    "TLLM_WORKER_USE_SINGLE_PROCESS": "1",
}


def start(model: Path, options: TensorRTLLMOptions) -> "TensorRTLLMExecutor":
    """Loads the model. Raises `StartError`."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from .executor import TensorRTLLMExecutor
    except ModuleNotFoundError as error:
        raise StartError(
            f"The TensorRT-LLM executor needs the module {error.name}: run the gpu image of this project, or "
            "install TensorRT-LLM as NVIDIA describes. Without an NVIDIA GPU use --executor openvino."
        ) from error
    except (ImportError, OSError) as error:
        raise StartError(
            f"TensorRT-LLM is installed and cannot be loaded ({str(error).splitlines()[0]}): is there an "
            "NVIDIA driver here, and was the container started with --gpus?"
        ) from error
    return TensorRTLLMExecutor(model, options)
