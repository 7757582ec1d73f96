"""A model's tokenizer: conversations to token ids, token ids to text."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ..gguf_metadata import GGUFError, read_metadata
from .conversation import TemplateRefusal, Turn
from .gguf_vocabulary import build_tokenizer
from .mistral import mistral_prompt
from .template import ChatTemplate
from .token_bytes import TokenBytes

__all__ = ["ChatTokenizer", "TemplateRefusal", "TokenizerError", "Turn", "load_tokenizer"]

# Every kind of token that a decoder could treat in its own way: words, runs of spaces, bytes, lines.
_SAMPLE = "Hello, wörld!  1234 \n\n\t日本 🎉🎉 don't  x"


class TokenizerError(Exception):
    """One clear sentence: why the tokenizer cannot be loaded, and what would work."""


class ChatTokenizer:
    """Tokenizer and chat template of one model."""

    backend: Tokenizer
    stop_token_ids: tuple[int, ...]
    """Tokens that end an answer."""
    context_length: int | None
    """In tokens, if the model's files tell."""
    vocab_size: int
    token_bytes: TokenBytes

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stop_token_ids: Sequence[int], context_length: int | None
    ) -> None:
        """Raises TokenizerError if there is no usable chat template or the tokenizer cannot be streamed."""
        self.backend = tokenizer.backend_tokenizer
        self.stop_token_ids = tuple(dict.fromkeys(stop_token_ids))
        self.context_length = context_length
        self.vocab_size = self.backend.get_vocab_size(with_added_tokens=True)
        self.token_bytes = TokenBytes(self.backend)
        sample = self.backend.encode(_SAMPLE, add_special_tokens=False).ids
        if self.token_bytes.text(sample) != self.decode(sample):
            raise TokenizerError(
                "This tokenizer's way of decoding cannot be streamed: use byte-level BPE or SentencePiece."
            )
        if not tokenizer.chat_template:
            raise TokenizerError(
                "The tokenizer has no chat template: use an instruct model, or add its chat_template.jinja."
            )
        template = ChatTemplate(tokenizer)
        try:
            self._prompt = mistral_prompt(self.backend, template.render) or template
        except TemplateRefusal as refusal:
            raise TokenizerError(f"The chat template does not work: {refusal}") from refusal

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of the conversation and of what opens the assistant's turn.

        Control tokens come from the chat template alone: their text in a `content` stays text.

        Raises:
            TemplateRefusal: the chat template does not allow this conversation.
        """
        return self._prompt.encode(turns)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of these tokens, without special tokens."""
        return self.backend.decode(list(token_ids), skip_special_tokens=True)

    def token_text(self, token_id: int) -> str:
        """A token's text by itself, its leading space included.

        U+FFFD stands for bytes that are no whole character; empty for special tokens.
        """
        return self.token_bytes[token_id].decode("utf-8", "replace")


def load_tokenizer(path: Path) -> ChatTokenizer:
    """Loads from a directory in Hugging Face's or OpenVINO's format, or from a GGUF file; local files only.

    Raises:
        TokenizerError: there is no usable tokenizer.
    """
    if path.is_dir():
        return _from_directory(path)
    if path.suffix == ".gguf" and path.is_file():
        return _from_gguf(path)
    raise TokenizerError(f"{path.name} is neither a directory nor a .gguf file.")


def _from_directory(path: Path) -> ChatTokenizer:
    missing = [name for name in ("tokenizer.json", "tokenizer_config.json") if not (path / name).is_file()]
    if missing:
        converted = (path / "openvino_tokenizer.xml").is_file()
        raise TokenizerError(
            f"{path.name} lacks {' and '.join(missing)}"
            + (", which openvino_tokenizer.xml does not replace" if converted else "")
            + ": copy them from the model's original repository."
        )
    try:
        # Not AutoTokenizer: this class uses tokenizer.json as it is, where the classes that
        # tokenizer_config.json names build normalizer and decoder anew, each release in its own way.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
        config = _json(path / "config.json")
        generation = _json(path / "generation_config.json")
    except Exception as error:  # whatever a library makes of a broken file
        raise TokenizerError(f"The tokenizer files in {path.name} cannot be read: {error}") from error
    eos = generation.get("eos_token_id")
    stop = [tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])]
    config = config.get("text_config", config)
    return ChatTokenizer(tokenizer, [i for i in stop if i is not None], config.get("max_position_embeddings"))


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}


def _from_gguf(path: Path) -> ChatTokenizer:
    try:
        metadata = read_metadata(path)
        backend = build_tokenizer(metadata)
    except (GGUFError, OSError) as error:
        raise TokenizerError(str(error)) from error
    ggml = "tokenizer.ggml."
    tokens = metadata[f"{ggml}tokens"]
    special = {
        f"{name}_token": tokens[metadata[f"{ggml}{key}_token_id"]]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"{ggml}{key}_token_id" in metadata
    }
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, chat_template=metadata.get("tokenizer.chat_template"), **special
    )
    stop = [metadata[key] for name in ("eos", "eot", "eom") if (key := f"{ggml}{name}_token_id") in metadata]
    architecture = metadata.get("general.architecture")
    return ChatTokenizer(tokenizer, stop, metadata.get(f"{architecture}.context_length"))
