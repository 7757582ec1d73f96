"""What can be known of a model's files before the engine loads them."""

import json
from dataclasses import dataclass
from pathlib import Path

import gguf

from ...gguf_metadata import GGUFError, missing_bytes, read_metadata
from ..seam import StartError

_ADVICE = (
    "The CPU engine loads a GGUF file with a byte-level BPE vocabulary (Llama 3, Qwen 2, SmolLM 2) or a "
    "directory in OpenVINO's format, such as OpenVINO/mistral-7b-instruct-v0.3-int4-ov"
)


@dataclass(frozen=True)
class ModelFiles:
    """A model that the engine should be able to load."""

    path: Path
    precision: str
    context_length: int
    #: Width of the logits, which can exceed the tokens that the tokenizer knows.
    vocab_size: int

    @classmethod
    def inspect(cls, path: Path) -> "ModelFiles":
        """Raises `StartError` for what the engine cannot load, saying why and what would work."""
        if not path.exists():
            raise StartError(f"There is no model at {path}.")
        return cls._from_directory(path) if path.is_dir() else cls._from_gguf(path)

    @classmethod
    def _from_gguf(cls, path: Path) -> "ModelFiles":
        try:
            metadata = read_metadata(path)
            missing = missing_bytes(path, gguf.GGML_QUANT_SIZES)
        except (GGUFError, OSError) as error:
            raise StartError(f"{path} is not a GGUF file, or not a whole one. {_ADVICE}.") from error
        if missing:
            raise StartError(f"{path} is cut: {missing:,} bytes are missing at its end. Download it again.")
        if (kind := metadata.get("tokenizer.ggml.model")) != "gpt2":
            raise StartError(
                f"{path} holds a vocabulary of the kind {kind!r}, which the CPU engine does not read "
                f"from a GGUF file. {_ADVICE}."
            )
        context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
        tokens = metadata.get("tokenizer.ggml.tokens")
        if context is None or not tokens:
            raise StartError(f"{path} does not state its context length and vocabulary. {_ADVICE}.")
        return cls(path, _gguf_precision(metadata.get("general.file_type")), context, len(tokens))

    @classmethod
    def _from_directory(cls, path: Path) -> "ModelFiles":
        if not (path / "openvino_model.xml").exists():
            raise StartError(
                f"{path} holds no openvino_model.xml. {_ADVICE}. Weights in Hugging Face's own format "
                "become one with: optimum-cli export openvino --model DIR --weight-format int4 OUTPUT"
            )
        for needed in ("openvino_model.bin", "openvino_tokenizer.xml", "config.json"):
            if not (path / needed).exists():
                raise StartError(f"{path} is incomplete: it holds no {needed}. {_ADVICE}.")
        config = _json(path / "config.json")
        context, vocab_size = config.get("max_position_embeddings"), config.get("vocab_size")
        if not isinstance(context, int) or not isinstance(vocab_size, int):
            raise StartError(f"{path}/config.json does not say max_position_embeddings and vocab_size.")
        return cls(path, _openvino_precision(path, config), context, vocab_size)


def _gguf_precision(file_type: int | None) -> str:
    names: dict[int | None, str] = {kind.value: kind.name for kind in gguf.LlamaFileType}
    return names.get(file_type, "unknown").removeprefix("MOSTLY_").removeprefix("ALL_")


def _json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"{path} is not readable as JSON.") from error
    return content if isinstance(content, dict) else {}


def _openvino_precision(path: Path, config: dict[str, object]) -> str:
    """As optimum-intel notes it; the published models of the OpenVINO organisation carry such a file."""
    export = _json(path / "openvino_config.json") if (path / "openvino_config.json").exists() else {}
    quantization = export.get("quantization_config")
    if isinstance(quantization, dict) and "bits" in quantization:
        return f"int{quantization['bits']}"
    return str(export.get("dtype") or config.get("torch_dtype") or config.get("dtype") or "unknown")
