"""Whatever keeps the executor from starting is told apart, in one sentence for the operator."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mistralchat_server.executor.seam import StartError
from mistralchat_server.executor.trtllm.options import TensorRTLLMOptions

from .conftest import CONFIG, Engine

Start = Callable[..., Engine]


def test_without_the_library(checkpoint: Path) -> None:
    from mistralchat_server.executor.trtllm.start import start as begin

    with pytest.raises(StartError, match=r"needs the module (tensorrt_llm|torch): run the gpu image"):
        begin(checkpoint, TensorRTLLMOptions())


def test_with_a_library_that_finds_no_driver(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mistralchat_server.executor.trtllm.start import start as begin

    (tmp_path / "tensorrt_llm.py").write_text(
        "raise ImportError('libcuda.so.1: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(StartError, match=r"cannot be loaded \(libcuda.so.1.*is there an NVIDIA driver"):
        begin(checkpoint, TensorRTLLMOptions())


def test_without_a_gpu(start: Start) -> None:
    with pytest.raises(StartError, match="no NVIDIA GPU"):
        start(GPUS="0")


def test_with_too_few_gpus(start: Start) -> None:
    with pytest.raises(StartError, match=r"tensor_parallel is 2, and there are 1 GPUs"):
        start(tensor_parallel=2)


def test_with_too_little_memory_it_says_how_much_is_needed(start: Start) -> None:
    with pytest.raises(
        StartError, match=r"GPU 0 has 1.0 GiB of free memory, and \d\.\d GiB are needed: .* for weights"
    ):
        start(FREE_GIB="1")


def test_with_less_memory_than_estimated(start: Start) -> None:
    with pytest.raises(StartError, match="memory does not suffice"):
        start(LOAD_ERROR="CUDA out of memory. Tried to allocate 2.00 GiB")


def test_with_a_model_that_the_library_cannot_load(start: Start) -> None:
    with pytest.raises(StartError, match=r"TensorRT-LLM 1.2.1 could not load .*: unknown layout"):
        start(LOAD_ERROR="unknown layout\n  at loader.py:42")


def variant(checkpoint: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "a model of the kind LlamaForCausalLM"),
        (
            {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}},
            "are fp8, but .* says bf16",
        ),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "are awq, but"),
        ({"hidden_size": None}, "does not give the dimensions"),
    ],
)
def test_with_another_checkpoint(
    start: Start, checkpoint: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StartError, match=message):
        start(model=variant(checkpoint, tmp_path, **changes))


def test_what_model_optimizer_wrote_counts(start: Start, checkpoint: Path, tmp_path: Path) -> None:
    folder = variant(checkpoint, tmp_path)
    quantization = {"quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": None, "group_size": 128}
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))
    with pytest.raises(StartError, match=r"are int4_awq, but trtllm.precision says fp8"):
        start(model=folder, precision="fp8")
    assert start(model=folder, precision="int4_awq").executor.describe().precision == "int4_awq"


def test_without_weights(start: Start, checkpoint: Path, tmp_path: Path) -> None:
    folder = variant(checkpoint, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(StartError, match="no weights"):
        start(model=folder)


def test_without_a_checkpoint(start: Start, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"holds no config.json"):
        start(model=tmp_path)


def test_with_gpus_that_cannot_share_the_heads(start: Start) -> None:
    with pytest.raises(StartError, match="cannot be divided among 3 GPUs"):
        start(GPUS="3", tensor_parallel=3)
