"""Canonical bad words: minimal, and equal for equal bans."""

import itertools
import random
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from mistralchat_server.text.bad_words import canonical_bad_words


def test_implied_words_and_duplicates_are_dropped() -> None:
    words = ["Paris", "é", "café", "Par", "Paris", "spa", "a spa b", "Spa"]
    assert canonical_bad_words(words) == ("Par", "Spa", "spa", "é")


def test_no_words() -> None:
    assert canonical_bad_words([]) == ()


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=8), st.randoms(use_true_random=False))
def test_bans_the_same_texts_in_any_order(words: list[str], rng: random.Random) -> None:
    canonical = canonical_bad_words(words)
    for text in map("".join, itertools.product("ab", repeat=5)):
        assert any(word in text for word in canonical) == any(word in text for word in words)
    assert not any(a != b and a in b for a in canonical for b in canonical)
    rng.shuffle(words)
    assert canonical_bad_words(words + words[:2]) == canonical


def test_the_largest_list_takes_no_time() -> None:
    # One letter, one repeated: the slowest case for a search that gives up late.
    words = ["a" * 255 + chr(0x4E00 + i) for i in range(256)]
    start = time.perf_counter()
    assert len(canonical_bad_words(words)) == 256
    assert time.perf_counter() - start < 0.5
