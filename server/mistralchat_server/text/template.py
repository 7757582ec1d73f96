"""A model's chat template, rendered and encoded so that no caller can write control tokens."""

import re
import secrets
from collections.abc import Sequence
from typing import cast

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from .conversation import TemplateRefusal, Turn


class ChatTemplate:
    """The template of one tokenizer; rendering is transformers'."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        template = str(tokenizer.chat_template)
        # Added tokens that are not special are control tokens if the template writes them; the others
        # (runs of spaces, for instance) are text like any other.
        self._control = [
            token.content
            for token in self._backend.get_added_tokens_decoder().values()
            if token.special or (token.content in template and not token.content.isspace())
        ]
        self._control_ids = {self._backend.token_to_id(content) for content in self._control}
        # Longest first: a token comes before those that it contains.
        alternatives = sorted(map(re.escape, self._control), key=len, reverse=True)
        self._control_pattern = re.compile("|".join(alternatives) or "(?!)")
        # The same model without added tokens.
        self._plain = Tokenizer(self._backend.model)
        if self._backend.normalizer is not None:
            self._plain.normalizer = self._backend.normalizer
        if self._backend.pre_tokenizer is not None:
            self._plain.pre_tokenizer = self._backend.pre_tokenizer

    def render(self, turns: Sequence[Turn]) -> str:
        """The prompt as text.

        Raises:
            TemplateRefusal: with the template's own message, or a general one where the template fails.
        """
        messages = [turn._asdict() for turn in turns]
        try:
            rendered = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            # `raise_exception` of transformers raises exactly this class; subclasses are faults.
            if type(error) is TemplateError and error.message:
                raise TemplateRefusal(error.message) from None
            raise TemplateRefusal(_GENERAL_REFUSAL) from error
        except Exception as error:  # a template is a program of somebody else's
            raise TemplateRefusal(_GENERAL_REFUSAL) from error
        return cast(str, rendered)

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        """The prompt as token ids.

        Text of control tokens in a caller's content stays text. Pieces around it are encoded each by
        itself, which some tokenizers mark with a word boundary.

        Raises:
            TemplateRefusal: as `render`.
        """
        if not any(self._control_pattern.search(turn.content) for turn in turns):
            return self._encode(self.render(turns))
        literals: list[str] = []
        # Nobody can foresee it, so no content can hold it.
        nonce = secrets.token_hex(16)

        def mark(match: re.Match[str]) -> str:
            literals.append(match.group())
            return f"\ue000{nonce}:{len(literals) - 1}\ue001"

        marked = [Turn(turn.role, self._control_pattern.sub(mark, turn.content)) for turn in turns]
        pieces = re.split(f"\ue000{nonce}:([0-9]+)\ue001", self.render(marked))
        ids = self._encode(pieces[0])
        for index, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            ids += self._encode_literal(literals[int(index)]) + self._encode(piece)
        return ids

    def _encode(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def _encode_literal(self, text: str) -> list[int]:
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        if self._control_ids.isdisjoint(ids):
            return ids
        # A vocabulary whose merges spell a control token: its characters, one by one, do not.
        return [i for character in text for i in self._plain.encode(character, add_special_tokens=False).ids]


_GENERAL_REFUSAL = "The model's chat template cannot render this conversation."
