"""A tokenizer that needs no model: one token for each byte, for the replay executor."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .tokenizer import ChatTokenizer

_END = "<|end|>"
#: The contents alone, a line each: a replayed answer is then just what was said.
_TEMPLATE = "{{ messages | map(attribute='content') | join('\n') }}"


def byte_tokenizer() -> ChatTokenizer:
    """One token for each byte of UTF-8, and one that ends an answer."""
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([_END])
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, eos_token=_END, chat_template=_TEMPLATE
    )
    return ChatTokenizer(tokenizer, [tokenizer.eos_token_id], context_length=None)
