"""Prompts of Mistral's first three instruct generations, with the very ids of Mistral's own tokenizers.

The reference is mistral-common (`InstructTokenizerV1`, `V2` and `V3` in tokens/tokenizers/instruct.py).
It encodes every message by itself with sentencepiece and puts control tokens between the ids. No chat
template gives the same ids: a template yields one string, and where sentencepiece begins each message
with a word boundary, what a string does around `[INST]` and `</s>` depends on how the tokenizer was
converted (`legacy`, `prepend_scheme`) and on the white space of that edition of the template, of which
several are published for each model. The early editions also refuse system messages, which
mistral-common accepts. So for these generations the ids are put together here.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer, normalizers

from .conversation import TemplateRefusal, Turn

_PROBE = (Turn("user", "one"), Turn("assistant", "two"), Turn("user", "three"))
_PROBE_PROMPT = "<s>[INST]one[/INST]two</s>[INST]three[/INST]"
_LAST_PIECE = "梦"  # of the vocabulary in every generation, at a place of its own
_LAST_PIECE_V1 = 31999
_LAST_PIECE_V2_V3 = 32767


class MistralPrompt(NamedTuple):
    """Encodes conversations for generation 1, or for 2 and 3, which differ in tool calls alone."""

    plain: Tokenizer
    bos: int
    eos: int
    instruction: tuple[int, int] | None  # [INST] and [/INST]; plain text in generation 1

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of the conversation.

        Raises:
            TemplateRefusal: the roles do not alternate, or the last one is not the user's.
        """
        system = turns[0].content if turns and turns[0].role == "system" else ""
        turns = turns[1:] if turns and turns[0].role == "system" else turns
        for index, turn in enumerate(turns):
            if turn.role != ("assistant" if index % 2 else "user"):
                raise TemplateRefusal(
                    "After the optional system message, conversation roles must alternate "
                    "user/assistant/user/assistant/..."
                )
        if len(turns) % 2 == 0:
            raise TemplateRefusal("The last message of the conversation must be the user's.")

        # Generation 1 puts the system message before the first message, the others before the last.
        instructed = 0 if self.instruction is None else len(turns) - 1
        ids = [self.bos]
        for index, turn in enumerate(turns):
            if turn.role == "assistant":
                ids += self._answer(turn.content)
            else:
                prefix = f"{system}\n\n" if system and index == instructed else ""
                ids += self._question(prefix + turn.content)
        return ids

    def _question(self, content: str) -> list[int]:
        if self.instruction is None:
            return self._plain(f"[INST] {content} [/INST]")
        begin, end = self.instruction
        return [begin, *self._plain(content), end]

    def _answer(self, content: str) -> list[int]:
        return [*self._plain(content if self.instruction is None else content.rstrip(" ")), self.eos]

    def _plain(self, text: str) -> list[int]:
        return self.plain.encode(text, add_special_tokens=False).ids


def mistral_prompt(backend: Tokenizer, render: Callable[[Sequence[Turn]], str]) -> MistralPrompt | None:
    """The encoder, if this is a tokenizer of one of the three generations; `render` is its chat template.

    Recognised by the place of the vocabulary's last piece, and by what the template makes of a
    conversation, white space aside. `[SYSTEM_PROMPT]` came with later generations.

    Raises:
        TemplateRefusal: the template cannot render even the simplest conversation.
    """
    last_piece = backend.token_to_id(_LAST_PIECE)
    bos, eos = backend.token_to_id("<s>"), backend.token_to_id("</s>")
    if bos is None or eos is None or backend.token_to_id("[SYSTEM_PROMPT]") is not None:
        return None
    begin, end = backend.token_to_id("[INST]"), backend.token_to_id("[/INST]")
    if last_piece == _LAST_PIECE_V1:
        instruction = None
    elif last_piece == _LAST_PIECE_V2_V3 and begin is not None and end is not None:
        instruction = (begin, end)
    else:
        return None
    if re.sub(r"\s", "", render(_PROBE)) != _PROBE_PROMPT:
        return None
    # The same model without control tokens, and with sentencepiece's own normalization: one word
    # boundary in front (`add_dummy_prefix`), nothing else.
    plain = Tokenizer(backend.model)
    plain.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return MistralPrompt(plain, bos, eos, instruction)
