"""The settings of the TensorRT-LLM executor, apart from the engine, which most machines do not have."""

from typing import Literal

from pydantic import BaseModel, Field

#: The parameters of the system that this project re-implements which an executor has to honour.
Documented = Literal["bad_words_list", "beam_width", "repetition_penalty"]


class TensorRTLLMOptions(BaseModel, extra="forbid", frozen=True):
    """How the engine is set up."""

    precision: Literal["bf16", "fp8", "int4_awq"] = Field(
        "bf16", description="What the checkpoint's weights are; a checkpoint of others is refused."
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share the model.")
    max_batch_size: int = Field(64, ge=1, description="Most requests that run at the same time; others wait.")
    max_num_tokens: int = Field(8_192, ge=1, description="Most tokens that one step computes.")
    context_length: int = Field(32_768, ge=2, description="Most tokens of prompt and answer together.")
    max_beam_width: int = Field(1, ge=1, description="Widest beam search; more than 1 needs a late 1.3.")
    kv_cache_share: float = Field(
        0.9, gt=0, lt=1, description="Share of the memory left by weights and activations for the KV cache."
    )
    kv_cache_precision: Literal["auto", "fp8"] = Field(
        "auto", description="auto takes the checkpoint's; fp8 needs a GPU that has it."
    )
    chunked_prefill: bool = Field(True, description="Whether long prompts are computed in several steps.")
    cuda_graphs: bool = Field(True, description="Whether decoding steps are recorded and replayed.")
    sampler: Literal["auto", "TorchSampler", "TRTLLMSampler"] = Field(
        "auto", description="auto takes the one that honours penalties in the version at hand."
    )
    guided_decoding: Literal["xgrammar", "none"] = Field(
        "xgrammar", description="Needed for bad_words_list and response_format."
    )
    allow_unsupported: tuple[Documented, ...] = Field(
        (),
        description="Parameters that callers are promised and without which the server starts all the same.",
    )
