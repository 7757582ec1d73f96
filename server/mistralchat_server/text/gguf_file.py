"""The tokenizer inside a GGUF file.

The reader is our own because gguf.GGUFReader makes an array for every string and takes seconds for a
vocabulary; this one takes a tenth of one. The format: docs/gguf.md of ggml-org/ggml.
"""

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


class GGUFError(ValueError):
    """The file is no GGUF file, or its tokenizer is of a kind that cannot be built; one clear sentence."""


class _PreTokenizer(NamedTuple):
    pattern: str | None  # None: that of GPT-2, built into ByteLevel
    single_digits: bool = False
    ignore_merges: bool = False
    nfc: bool = False


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By `tokenizer.ggml.pre`: the names are llama.cpp's (src/llama-vocab.cpp), the patterns those of the
# models' tokenizer.json, which llama.cpp quotes.
_PRE_TOKENIZERS = {
    "gpt-2": _PreTokenizer(None),
    "smollm": _PreTokenizer(None, single_digits=True),
    "llama-bpe": _PreTokenizer(_LLAMA3, ignore_merges=True),
    "qwen2": _PreTokenizer(_LLAMA3.replace("{1,3}", ""), nfc=True),
    "tekken": _PreTokenizer(_TEKKEN, ignore_merges=True),
}


def read_metadata(path: Path) -> dict[str, Any]:
    """The key-value pairs of a GGUF file.

    Raises:
        GGUFError: the file is not a complete little-endian GGUF file of version 2 or 3.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).metadata()
        except (struct.error, ValueError, KeyError) as error:
            raise GGUFError(f"{path.name} is not a complete GGUF file of version 2 or 3.") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._offset = 0

    def metadata(self) -> dict[str, Any]:
        magic, version, _tensors, pairs = self._unpack("4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("magic or version")
        return {self._string(): self._value(self._scalar("I")) for _ in range(pairs)}

    def _unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self._data, self._offset)
        self._offset += struct.calcsize(f"<{layout}")
        return values

    def _scalar(self, layout: str) -> Any:
        return self._unpack(layout)[0]

    def _string(self) -> str:
        start = self._offset + 8
        self._offset = start + self._scalar("Q")
        return self._data[start : self._offset].decode()

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            kind, length = self._unpack("IQ")
            if kind in _SCALARS:
                return list(self._unpack(f"{length}{_SCALARS[kind]}"))
            return [self._value(kind) for _ in range(length)]
        return self._scalar(_SCALARS[kind])


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The byte-level BPE tokenizer that a GGUF file describes.

    Raises:
        GGUFError: its vocabulary is of another kind or incomplete, or its pre-tokenizer is unknown.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model == "llama":
        raise GGUFError(
            "This GGUF file has a SentencePiece vocabulary, which the CPU engine cannot load either: use a "
            "directory in OpenVINO's or Hugging Face's format instead."
        )
    if model != "gpt2":
        raise GGUFError(
            f"This GGUF file has a vocabulary of the kind {model!r}; only byte-level BPE is supported."
        )
    name = metadata.get("tokenizer.ggml.pre")
    if name not in _PRE_TOKENIZERS:
        raise GGUFError(
            f"This GGUF file names the pre-tokenizer {name!r}; known are {', '.join(_PRE_TOKENIZERS)}."
        )
    pre = _PRE_TOKENIZERS[name]
    tokens: list[str] = metadata.get("tokenizer.ggml.tokens", [])
    merges: list[str] = metadata.get("tokenizer.ggml.merges", [])
    if not tokens or not merges:
        raise GGUFError("This GGUF file holds no vocabulary, or one without merges.")
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: token_id for token_id, token in enumerate(tokens)},
            merges=[(left, right) for left, _, right in (merge.partition(" ") for merge in merges)],
            ignore_merges=pre.ignore_merges,
        )
    )
    if pre.nfc:
        tokenizer.normalizer = normalizers.NFC()
    steps: list[pre_tokenizers.PreTokenizer] = []
    if pre.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if pre.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pre.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre.pattern is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    kinds: list[int] = metadata.get("tokenizer.ggml.token_type", [])
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in zip(tokens, kinds, strict=False)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    return tokenizer
