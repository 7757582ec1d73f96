"""What a checkpoint is by its own files, compared with what it should be, before anything is loaded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...engines.arithmetic import GIB, Budget, CachePrecision, Shape
from ..seam import StartError
from .options import TensorRTLLMOptions

_ARCHITECTURE = "MistralForCausalLM"
_PRECISIONS = {None: "bf16", "FP8": "fp8", "W4A16_AWQ": "int4_awq"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that the engine should be able to load."""

    path: Path
    shape: Shape
    context_length: int
    cache: CachePrecision

    @classmethod
    def inspect(cls, path: Path, options: TensorRTLLMOptions) -> "Checkpoint":
        """Raises `StartError` where the files are not what `options` expects, saying what they are."""
        if not (path / "config.json").is_file():
            raise StartError(
                f"{path} is no Hugging Face checkpoint: it holds no config.json. "
                "The TensorRT-LLM executor loads a directory that `mistralchat engines prepare` has made."
            )
        config = _json(path / "config.json")
        architectures = config.get("architectures") or ["none"]
        if _ARCHITECTURE not in architectures:
            raise StartError(f"{path} holds a model of the kind {architectures[0]}, not {_ARCHITECTURE}.")
        if not any(path.glob("*.safetensors")):
            raise StartError(f"{path} holds no weights in safetensors: was its download interrupted?")
        found, cache = _quantization(path, config)
        if found != options.precision:
            raise StartError(
                f"The weights in {path} are {found}, but trtllm.precision says {options.precision}. "
                "Prepare the recipe again, or set trtllm.precision to what they are."
            )
        try:
            shape = Shape.of_config(config)
            longest = int(config["max_position_embeddings"])
        except (KeyError, ValueError, ValidationError) as error:
            raise StartError(f"{path}/config.json does not give the dimensions of the model.") from error
        if shape.num_key_value_heads % options.tensor_parallel:
            raise StartError(
                f"{shape.num_key_value_heads} key-value heads cannot be divided among "
                f"{options.tensor_parallel} GPUs: trtllm.tensor_parallel must be a divisor."
            )
        if options.kv_cache_precision == "fp8":
            cache = "8 bits"
        return cls(path, shape, min(longest, options.context_length), cache)

    def require_memory(self, free: list[int], options: TensorRTLLMOptions) -> None:
        """Raises `StartError` where the GPUs have less free memory than one whole conversation needs."""
        needed = self.needed_memory(options)
        for index, memory in enumerate(free):
            if memory < needed:
                raise StartError(
                    f"GPU {index} has {memory / GIB:.1f} GiB of free memory, and {needed / GIB:.1f} GiB are "
                    f"needed: {self._account(options)}. Is another program on it?"
                )

    def needed_memory(self, options: TensorRTLLMOptions) -> int:
        """Bytes on each GPU, for weights, the engine, and one conversation of the whole length."""
        # The engine takes its share of what is left, so that much more has to be left.
        cache = self.context_length * self._budget(options).kv_per_token
        return self._budget(options).needed(0) + int(cache / options.kv_cache_share)

    def _account(self, options: TensorRTLLMOptions) -> str:
        budget = self._budget(options)
        cache = self.needed_memory(options) - budget.needed(0)
        return (
            f"{budget.weights / GIB:.1f} for weights, {budget.overhead / GIB:.1f} for the engine and "
            f"activations (an estimate), {cache / GIB:.1f} for the KV cache of one conversation of "
            f"{self.context_length:,} tokens"
        )

    def _budget(self, options: TensorRTLLMOptions) -> Budget:
        return Budget.of(
            self.shape,
            options.precision,
            self.cache,
            memory=0,
            devices=options.tensor_parallel,
            step_tokens=options.max_num_tokens,
            batch=options.max_batch_size,
            cache_share=options.kv_cache_share,
        )


def _quantization(path: Path, config: dict[str, Any]) -> tuple[str, CachePrecision]:
    """The precision of the weights, by Model Optimizer's own file or the configuration, and of the cache."""
    if (path / "hf_quant_config.json").is_file():
        section = _json(path / "hf_quant_config.json").get("quantization") or {}
        cache = section.get("kv_cache_quant_algo")
    else:
        section = config.get("quantization_config") or {}
        cache = "FP8" if section.get("kv_cache_scheme") else None
    algorithm = section.get("quant_algo") or section.get("quant_method")
    return _PRECISIONS.get(algorithm, str(algorithm)), "8 bits" if cache == "FP8" else "16 bits"


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"{path} is not readable as JSON.") from error
    return content if isinstance(content, dict) else {}
