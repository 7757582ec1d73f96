"""Quantization by Model Optimizer, for real, on a checkpoint of Mistral's architecture with random weights.

Needs `mistralchat[prepare]`, which the tests' environment does not have: torch alone is gigabytes.
    pip install -e ".[prepare]" pytest && pytest -rs tests/unit/engines/test_quantize.py
"""

import json
from pathlib import Path
from typing import Any

import pytest

from mistralchat_server.engines.quantize import QuantizationError, quantize
from mistralchat_server.engines.recipe import Quantization

TEXTS = "One two three four five.\nThe quick brown fox jumps over the lazy dog.\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("modelopt", reason='quantization needs: pip install "mistralchat[prepare]"')
    torch = pytest.importorskip("torch")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXTS], trainer)
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config: Any = MistralConfig(
        vocab_size=320,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
    )
    model: Any = MistralForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("precision", "kv_cache", "algorithm", "cache_algorithm"),
    [
        ("fp8", "16 bits", "FP8", None),
        ("fp8", "fp8", "FP8", "FP8"),
        ("int4_awq", "16 bits", "W4A16_AWQ", None),
    ],
)
def test_the_checkpoint_is_what_was_asked_for(
    checkpoint: Path,
    tmp_path: Path,
    precision: Any,
    kv_cache: Any,
    algorithm: str,
    cache_algorithm: str | None,
) -> None:
    from safetensors import safe_open

    (tmp_path / "texts").write_text(TEXTS)
    wanted = Quantization(precision=precision, kv_cache=kv_cache, calibration=str(tmp_path / "texts"))
    target = tmp_path / "quantized"
    quantize(checkpoint, target, wanted, lambda line: None)
    described = json.loads((target / "hf_quant_config.json").read_text())["quantization"]
    assert (described["quant_algo"], described["kv_cache_quant_algo"]) == (algorithm, cache_algorithm)
    assert json.loads((target / "config.json").read_text())["architectures"] == ["MistralForCausalLM"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (target / name).read_bytes() == (checkpoint / name).read_bytes()
    with safe_open(target / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
        projection = weights.get_tensor("model.layers.0.mlp.up_proj.weight")
        assert str(weights.get_tensor("lm_head.weight").dtype) == "torch.bfloat16"
    assert str(projection.dtype) == ("torch.float8_e4m3fn" if precision == "fp8" else "torch.uint8")
    assert "model.layers.0.mlp.up_proj.weight_scale" in names
    assert ("model.layers.0.self_attn.k_proj.k_scale" in names) == (cache_algorithm is not None)


def test_calibration_data_that_cannot_be_had(checkpoint: Path, tmp_path: Path) -> None:
    wanted = Quantization(precision="fp8", calibration="no such data")
    with pytest.raises(QuantizationError, match="'no such data' is no text file here"):
        quantize(checkpoint, tmp_path / "quantized", wanted, lambda line: None)
    assert not (tmp_path / "quantized").exists()
