"""The settings of the OpenVINO executor, apart from the engine, which takes seconds to import."""

from pydantic import BaseModel, Field


class OpenVINOOptions(BaseModel, extra="forbid", frozen=True):
    """How the engine is set up."""

    max_batch_size: int = Field(
        256, ge=1, description="Most requests that run at the same time; others wait."
    )
    max_beam_width: int = Field(8, ge=1, description="Widest beam search that is allowed.")
    kv_cache_gb: int = Field(0, ge=0, description="KV cache in GiB at most; 0 is a quarter of the memory.")
    threads: int = Field(0, ge=0, description="Processor threads; 0 leaves the choice to the engine.")
    reproducible: bool = Field(
        False, description="Answers do not depend on what else runs at the time; generation is slower."
    )
    max_constraint_seconds: float = Field(
        1.0, gt=0, description="Processor time that compiling one response_format or bad word list may take."
    )
