"""Prompts of an exact length in tokens, whatever the model's tokenizer and chat template."""

import random
from collections.abc import Callable

# Common enough to be one token each for most models, and of different lengths, so that a tokenizer of bytes
# has words for each remainder too.
_WORDS = (  # noqa: SIM905
    "so we at by an do day way man old new air sea sun time year work life hand part place world house water "
    "paper light night green black north south money music river story people school family number letter "
    "summer winter friend"
).split()
_OPENING = "Continue:"


class Prompts:
    """Makes prompts of random words. The tokens of each word are counted by the server, once.

    `count` tells how many tokens a prompt becomes; what it raises passes through.
    """

    def __init__(self, count: Callable[[str], int]) -> None:
        self._fixed = count(_OPENING)
        self._tokens = {word: count(f"{_OPENING} {word}") - self._fixed for word in _WORDS}
        self._shortest_word = min(self._tokens.values())
        self._longest_word = max(self._tokens.values())

    @property
    def least(self) -> int:
        """Tokens of the shortest prompt, the chat template's own included."""
        return self._fixed

    def prompt(self, tokens: int, random: random.Random) -> str:
        """A prompt of that many tokens; of `least` where that is more, or where no word is short enough."""
        left = tokens - self._fixed
        words = [_OPENING]
        while choices := self._choices(left):
            word = random.choice(choices)
            words.append(word)
            left -= self._tokens[word]
        return " ".join(words)

    def _choices(self, left: int) -> list[str]:
        """Words after which the rest can still be filled exactly."""
        if left >= self._longest_word + self._shortest_word:
            return _WORDS
        exact = [word for word, tokens in self._tokens.items() if tokens == left]
        return exact or [
            word for word, tokens in self._tokens.items() if left - tokens >= self._shortest_word
        ]
