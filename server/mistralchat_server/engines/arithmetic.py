"""What a model needs of a device's memory: weights, KV cache, and what remains for conversations."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

WeightPrecision = Literal["bf16", "fp8", "int4_awq", "int8", "q4_1"]
CachePrecision = Literal["16 bits", "8 bits"]

GIB = 1 << 30
#: Lengths that `engines check` counts conversations of.
CONVERSATIONS = (2_048, 32_768)

#: Bytes per weight of a linear layer, with what its format stores per group, and of the embeddings.
#: AWQ here has one 16-bit scale for 128 weights; Q4_1 a scale and a minimum of 16 bits for 32 weights.
_WEIGHT_BYTES: dict[WeightPrecision, tuple[float, float]] = {
    "bf16": (2.0, 2.0),
    "fp8": (1.0, 2.0),
    "int4_awq": (0.5 + 2 / 128, 2.0),
    "int8": (1.0, 1.0),
    "q4_1": (0.5 + 4 / 32, 1 + 2 / 32),
}
_CACHE_BYTES: dict[CachePrecision, int] = {"16 bits": 2, "8 bits": 1}
#: What the engine holds besides: CUDA context, its libraries' workspaces, CUDA graphs. An estimate,
#: since only a run on the device could tell.
_ENGINE_BYTES = 2 * GIB


class Shape(BaseModel, extra="forbid", frozen=True):
    """The dimensions of a model that decide what memory it needs; the names are config.json's."""

    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    tie_word_embeddings: bool = False

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> "Shape":
        """The shape that a checkpoint's config.json tells. Raises `KeyError` where it does not."""
        heads = config["num_attention_heads"]
        return cls(
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=config["num_hidden_layers"],
            num_attention_heads=heads,
            num_key_value_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocab_size=config["vocab_size"],
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def embedding_parameters(self) -> int:
        """The token embeddings and, if it has its own, the output layer."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def linear_parameters(self) -> int:
        """The matrices of all layers, which quantization makes smaller."""
        attention = (
            2 * self.hidden_size * self.head_dim * (self.num_attention_heads + self.num_key_value_heads)
        )
        return self.num_hidden_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def norm_parameters(self) -> int:
        """Two norms a layer and a last one, always in 16 bits."""
        return (2 * self.num_hidden_layers + 1) * self.hidden_size

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.linear_parameters + self.embedding_parameters + self.norm_parameters

    def weight_bytes(self, precision: WeightPrecision) -> int:
        """Of the whole model."""
        linear, embedding = _WEIGHT_BYTES[precision]
        return round(
            self.linear_parameters * linear + self.embedding_parameters * embedding + self.norm_parameters * 2
        )

    def kv_bytes_per_token(self, precision: CachePrecision) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim * _CACHE_BYTES[precision]


@dataclass(frozen=True)
class Budget:
    """How the memory of each device is spent. All figures are bytes on one device."""

    memory: int
    weights: int
    #: Activations of the largest step, by the engine's limits, and the engine itself: an estimate.
    overhead: int
    kv_per_token: int
    kv_cache: int

    @classmethod
    def of(
        cls,
        shape: Shape,
        precision: WeightPrecision,
        cache_precision: CachePrecision,
        *,
        memory: int,
        devices: int = 1,
        step_tokens: int,
        batch: int,
        cache_share: float,
        most_cache: int | None = None,
    ) -> "Budget":
        """The engine loads weights, tries its largest step, and takes `cache_share` of what is left."""
        weights = shape.weight_bytes(precision) // devices
        step = step_tokens * (2 * shape.intermediate_size // devices + 4 * shape.hidden_size) * 2
        logits = batch * shape.vocab_size * 4 * 2
        overhead = _ENGINE_BYTES + step + logits
        cache = max(0, int((memory - weights - overhead) * cache_share))
        return cls(
            memory=memory,
            weights=weights,
            overhead=overhead,
            kv_per_token=shape.kv_bytes_per_token(cache_precision) // devices,
            kv_cache=cache if most_cache is None else min(cache, most_cache),
        )

    @property
    def kv_tokens(self) -> int:
        """Tokens of all conversations together that the KV cache holds."""
        return self.kv_cache // self.kv_per_token

    @property
    def left(self) -> int:
        """What is given to nothing; negative where the model does not fit."""
        return self.memory - self.weights - self.overhead - self.kv_cache

    def conversations(self, tokens: int) -> int:
        """How many of that length fit the KV cache at the same time."""
        return self.kv_tokens // tokens

    def needed(self, tokens: int) -> int:
        """The least memory with which one conversation of that length can be served."""
        return self.weights + self.overhead + tokens * self.kv_per_token
