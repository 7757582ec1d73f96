"""The byte-level BPE tokenizer that a GGUF file describes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from ..gguf_metadata import GGUFError

_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


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
