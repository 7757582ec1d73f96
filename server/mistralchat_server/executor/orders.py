"""What the front end tells an executor process when it starts it."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from .openvino.options import OpenVINOOptions
from .replay import ReplayOptions
from .trtllm.options import TensorRTLLMOptions

ExecutorName = Literal["trtllm", "openvino", "replay"]


class ExecutorSettings(BaseModel, frozen=True):
    """Which executor to run and how."""

    executor: ExecutorName
    #: None only for an executor that needs none.
    model: Path | None = None
    trtllm: TensorRTLLMOptions = TensorRTLLMOptions()
    openvino: OpenVINOOptions = OpenVINOOptions()
    replay: ReplayOptions = ReplayOptions()
    log_level: str = "INFO"


class Orders(BaseModel, frozen=True):
    """One line of JSON on the process's standard input."""

    endpoint: str
    #: The descriptor of the heartbeat's memory, which the process inherits.
    heartbeat: int
    settings: ExecutorSettings
