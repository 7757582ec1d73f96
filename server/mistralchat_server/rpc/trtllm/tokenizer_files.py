"""The files from which a gateway builds the model's tokenizer, as one archive."""

import io
import json
import zipfile
from pathlib import Path

from ...gguf_metadata import read_metadata
from ...text import byte_tokenizer
from ...text.tokenizer import ChatTokenizer

#: In a directory of Hugging Face's format.
_NAMES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
)
_GGML = "tokenizer.ggml."


def tokenizer_archive(model: Path | None, tokenizer: ChatTokenizer) -> bytes:
    """A zip of the files of `tokenizer`, which is that of `model`."""
    if model is not None and model.is_dir():
        files = {name: (model / name).read_bytes() for name in _NAMES if (model / name).is_file()}
    else:
        files = _written(model, tokenizer)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            # With a fixed date, the same files are the same archive.
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def _written(model: Path | None, tokenizer: ChatTokenizer) -> dict[str, bytes]:
    """The files for a model that has none of its own: a GGUF file, or the replay executor's."""
    backend = tokenizer.backend
    config: dict[str, object] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if model is None:
        config["chat_template"] = byte_tokenizer._TEMPLATE
        config["eos_token"] = backend.id_to_token(tokenizer.stop_token_ids[0])
    else:
        metadata = read_metadata(model)
        config["chat_template"] = metadata["tokenizer.chat_template"]
        for name in ("bos", "eos"):
            if (token_id := metadata.get(f"{_GGML}{name}_token_id")) is not None:
                config[f"{name}_token"] = backend.id_to_token(token_id)
    return {
        "tokenizer.json": backend.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "config.json": json.dumps(
            {
                "eos_token_id": list(tokenizer.stop_token_ids),
                "max_position_embeddings": tokenizer.context_length,
            }
        ).encode(),
    }
