"""The bytes that each token of a vocabulary stands for."""

import codecs

from tokenizers import Tokenizer

_META_SPACE = "\u2581"
_ONE_PER_BYTE = "mistralchat.one-replacement-character-per-byte"


def _one_per_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(_ONE_PER_BYTE, _one_per_byte)


def _byte_level_alphabet() -> dict[str, int]:
    """The characters in which byte-level BPE writes bytes (`bytes_to_unicode` of GPT-2's encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_LEVEL = _byte_level_alphabet()


class TokenBytes(dict[int, bytes]):
    """Token id to bytes, filled as tokens are met; special tokens and unknown ids have none.

    Put together and decoded with the error handler `errors`, the bytes are the text of an answer, less
    one leading space where `strips_first_space`. They allow what a whole-text decoder does not: a token
    costs the same however long the answer is, and a character leaves as soon as its last byte is there.

    The text is `tokenizers`' own with one exception. Where byte-fallback tokens (`<0xE6>`) spell
    invalid UTF-8, `tokenizers` replaces all characters of that run of tokens, the whole ones too, which
    may have been sent long before. Here only the bytes that are no character are replaced, each by one
    U+FFFD, as sentencepiece itself does (`SentencePieceProcessor::Decode`).
    """

    def __init__(self, backend: Tokenizer) -> None:
        super().__init__()
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._special = {token_id for token_id, token in added.items() if token.special}
        self._byte_level = self._decodes(backend, "Ġ", " ")
        self._byte_fallback = self._decodes(backend, "<0x41>", "A")
        # Rust's from_utf8_lossy, which decodes byte-level BPE, and Python's "replace" agree: one U+FFFD
        # for each longest beginning of a character.
        self.errors = "replace" if self._byte_level else _ONE_PER_BYTE
        self.strips_first_space = self._decodes(backend, _META_SPACE, "")

    @staticmethod
    def _decodes(backend: Tokenizer, token: str, text: str) -> bool:
        token_id = backend.token_to_id(token)
        return token_id is not None and backend.decode([token_id]) == text

    def __missing__(self, token_id: int) -> bytes:
        try:
            token = self._backend.id_to_token(token_id)
        except OverflowError:  # not an unsigned 32-bit number
            token = None
        if token is None:
            return b""
        spelled = self[token_id] = b"" if token_id in self._special else self._spell(token)
        return spelled

    def _spell(self, token: str) -> bytes:
        if self._byte_level:
            try:
                return bytes([_BYTE_LEVEL[character] for character in token])
            except KeyError:  # a token that was added to the vocabulary as plain text
                return token.encode()
        if self._byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace(_META_SPACE, " ").encode()

    def text(self, token_ids: list[int]) -> str:
        """The whole text of these tokens."""
        text = b"".join([self[token_id] for token_id in token_ids]).decode("utf-8", self.errors)
        return text.removeprefix(" ") if self.strips_first_space else text
