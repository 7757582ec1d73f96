"""Quantizes a Hugging Face checkpoint with NVIDIA Model Optimizer, for the LLM API to load.

Run on checkpoints of Mistral's architecture with random weights, on a CPU, with Model Optimizer 0.37
and 0.47; never yet on the real model.
"""

import copy
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..executor.seam import StartError
from .recipe import Quantization

#: What Model Optimizer calls the precisions in hf_quant_config.json.
ALGORITHMS = {"fp8": "FP8", "int4_awq": "W4A16_AWQ"}
_CONFIGURATIONS = {"fp8": "FP8_DEFAULT_CFG", "int4_awq": "INT4_AWQ_CFG"}
#: The export writes weights and configuration; these belong to a checkpoint too.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


class QuantizationError(StartError):
    """The checkpoint could not be quantized. The message is one clear sentence for the operator."""


def quantize(source: Path, target: Path, quantization: Quantization, say: Callable[[str], None]) -> None:
    """Writes the checkpoint of `source`, quantized, to `target`, which must not exist."""
    try:
        import modelopt.torch.quantization as mtq
        import torch
        from modelopt.torch.export import export_hf_checkpoint
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise QuantizationError(
            f"Quantizing needs the module {error.name}: it is in the gpu image, and on another machine "
            'comes with: pip install "mistralchat[prepare]"'
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    say(f"loading {source.name} on {device}")
    tokenizer = AutoTokenizer.from_pretrained(source)
    # Its type says too little of what every model has.
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    model.to(device).eval()
    batches = _batches(tokenizer, quantization, device)
    say(f"quantizing to {quantization.precision} with {quantization.calibration_samples} samples")

    def calibrate(model: Any) -> None:
        with torch.inference_mode():
            for batch in batches:
                model(**batch, use_cache=False)

    mtq.quantize(model, _configuration(mtq, quantization), forward_loop=calibrate)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    say(f"writing {target}")
    with torch.inference_mode():
        export_hf_checkpoint(model, dtype=torch.bfloat16, export_dir=partial)
    for name in _TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, partial / name)
    _verify(partial, quantization)
    partial.rename(target)


def _configuration(mtq: Any, quantization: Quantization) -> dict[str, Any]:
    configuration: dict[str, Any] = copy.deepcopy(getattr(mtq, _CONFIGURATIONS[quantization.precision]))
    if quantization.kv_cache == "fp8":
        cache = copy.deepcopy(mtq.FP8_KV_CFG["quant_cfg"])
        weights = configuration["quant_cfg"]
        # A list of rules since 0.4x, where the last that matches wins; a dictionary before.
        if isinstance(weights, list):
            weights.extend(rule for rule in cache if rule["quantizer_name"] != "*")
        else:
            weights.update({name: rule for name, rule in cache.items() if name != "default"})
    return configuration


def _batches(tokenizer: Any, quantization: Quantization, device: str) -> Iterable[dict[str, Any]]:
    length = quantization.calibration_tokens
    texts = Path(quantization.calibration)
    if texts.is_file():
        lines = [line for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        chosen = lines[: quantization.calibration_samples]
        return [
            dict(tokenizer(line, return_tensors="pt", truncation=True, max_length=length).to(device))
            for line in chosen
        ]
    try:
        from modelopt.torch.utils.dataset_utils import get_dataset_dataloader

        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        loader: Iterable[dict[str, Any]] = get_dataset_dataloader(
            dataset_name=quantization.calibration,
            tokenizer=tokenizer,
            batch_size=1,
            num_samples=quantization.calibration_samples,
            max_sample_length=length,
            device=device,
        )
    except Exception as error:
        raise QuantizationError(
            f"The calibration data {quantization.calibration!r} is no text file here, and as a data set "
            f"of Model Optimizer it cannot be had: {str(error).strip().splitlines()[0]}"
        ) from error
    return loader


def _verify(folder: Path, quantization: Quantization) -> None:
    written = json.loads((folder / "hf_quant_config.json").read_text(encoding="utf-8"))["quantization"]
    wanted = (ALGORITHMS[quantization.precision], "FP8" if quantization.kv_cache == "fp8" else None)
    found = (written.get("quant_algo"), written.get("kv_cache_quant_algo"))
    if found != wanted:
        raise QuantizationError(
            f"Model Optimizer wrote weights and KV cache as {found} where {wanted} was asked for."
        )
    if not any(folder.glob("*.safetensors")):
        raise QuantizationError(f"Model Optimizer wrote no weights to {folder}.")
