"""The text of one answer while its tokens arrive."""

from bisect import bisect_left, bisect_right
from codecs import utf_8_decode
from collections.abc import Sequence

from .tokenizer import ChatTokenizer


class AnswerText:
    """Turns the tokens of one beam into text that never has to be taken back.

    The answer ends at the first stop word: of all occurrences in the text, the one that is complete
    earliest; of several that are complete at the same character, the word listed first. How the tokens
    are divided, and how they are fed, makes no difference.

    `feed` withholds bytes that are no whole character yet, and the longest end of the text that a
    stop word could begin with. All that `feed` and `finish` return, put together, is the decoded text
    up to the stop word.
    """

    __slots__ = (
        "_bytes",
        "_ends",
        "_errors",
        "_held",
        "_matcher",
        "_partial",
        "_partial_tokens",
        "_released",
        "_strip",
        "consumed_tokens",
        "released_tokens",
        "stop_word",
    )

    def __init__(self, tokenizer: ChatTokenizer, stop_words: Sequence[str] = ()) -> None:
        """`stop_words` must not be empty strings."""
        self.stop_word: str | None = None
        """The one that ended the answer."""
        self.consumed_tokens = 0
        """Tokens fed, up to and including the one that completed the stop word."""
        self.released_tokens = 0
        """Tokens whose whole text has been returned; none that spells a part of the stop word."""

        self._bytes = tokenizer.token_bytes
        self._errors = tokenizer.token_bytes.errors
        self._strip = tokenizer.token_bytes.strips_first_space
        self._partial = b""  # the beginning of a character
        self._partial_tokens = 0  # tokens that wait for that character
        self._matcher = _StopWords(stop_words) if stop_words else None
        self._held = ""  # could be the beginning of a stop word
        self._released = 0  # characters returned
        self._ends: list[int] = []  # where the text of each decoded token ends; not yet released ones

    def feed(self, token_ids: Sequence[int]) -> str:
        """The text that can be sent now. After a stop word: none, and no token is consumed."""
        if self.stop_word is not None:
            return ""
        if self._matcher is None:
            text = "".join([self._decode(self._bytes[token_id]) for token_id in token_ids])
            self.consumed_tokens += len(token_ids)
            self.released_tokens = self.consumed_tokens - self._partial_tokens
            return text
        pieces: list[str] = []
        for token_id in token_ids:
            self.consumed_tokens += 1
            pieces.append(self._release(self._decode(self._bytes[token_id])))
            if self.stop_word is not None:
                break
        return "".join(pieces)

    def finish(self) -> str:
        """What is still withheld, when the answer has ended; U+FFFD stands for an incomplete character.

        Even this end can complete a stop word, if one holds U+FFFD.
        """
        if self.stop_word is not None:
            return ""
        text = self._decode(b"", final=True)
        if self._matcher is not None:
            text = self._release(text)
            if self.stop_word is not None:
                return text
            text += self._held
            self._held = ""
        self.released_tokens = self.consumed_tokens
        return text

    def _decode(self, spelled: bytes, final: bool = False) -> str:
        waiting = self._partial
        data = waiting + spelled
        text, used = utf_8_decode(data, self._errors, final)
        self._partial = data[used:]
        if self._strip and text:
            self._strip = False
            text = text.removeprefix(" ")
        if self._matcher is not None:
            if waiting and used:
                self._note_partial_ends(text, waiting)
            if not self._partial and not final:
                self._ends.append(self._released + len(self._held) + len(text))
        if self._partial:
            self._partial_tokens = 1 if used else self._partial_tokens + 1
        else:
            self._partial_tokens = 0
        return text

    def _note_partial_ends(self, text: str, waiting: bytes) -> None:
        # The waiting tokens end with the character that they began, or with what replaces its bytes.
        replaced = self._errors != "replace" and text.startswith("\ufffd" * len(waiting))
        end = self._released + len(self._held) + (len(waiting) if replaced else 1)
        self._ends.extend([end] * self._partial_tokens)

    def _release(self, text: str) -> str:
        assert self._matcher is not None
        text = self._held + text
        match = self._matcher.first(text)
        if match is not None:
            start, self.stop_word = match
        else:
            start = self._matcher.longest_beginning(text)
        self._held = text[start:]
        self._released += start
        newly_released = bisect_right(self._ends, self._released)
        del self._ends[:newly_released]
        self.released_tokens += newly_released
        return text[:start]


class _StopWords:
    """Finds stop words, and the beginnings of stop words, in a short text."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._sorted = sorted(words)
        self._initials = frozenset(word[0] for word in words)
        self._longest = max(map(len, words))

    def first(self, text: str) -> tuple[int, str] | None:
        """Where the first stop word begins, and which it is."""
        if self._initials.isdisjoint(text):
            return None
        found = [(start + len(word), word, start) for word in self._words if (start := text.find(word)) >= 0]
        if not found:
            return None
        _, word, start = min(found, key=lambda occurrence: occurrence[0])
        return start, word

    def longest_beginning(self, text: str) -> int:
        """Where the longest end of `text` starts that a stop word begins with, or else its length."""
        if self._initials.isdisjoint(text):
            return len(text)
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[start] in self._initials:
                end = text[start:]
                place = bisect_left(self._sorted, end)  # a word that begins with `end` sorts right after it
                if place < len(self._sorted) and self._sorted[place].startswith(end):
                    return start
        return len(text)
