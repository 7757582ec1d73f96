"""Canonical form of a list of bad words."""

from collections.abc import Sequence


def canonical_bad_words(words: Sequence[str]) -> tuple[str, ...]:
    """The words, sorted, without those whose ban another word of the list implies.

    A word that contains another one cannot occur unless that one does, so dropping it changes
    nothing. It is not only thrift: xgrammar's `excludes` fails on duplicates and on words of which
    one is a prefix of another. Lists that ban the same texts come out equal.
    """
    kept: list[str] = []
    # Shorter words first: what a word could contain has been decided when its turn comes.
    for word in sorted(set(words), key=len):
        if not any(shorter in word for shorter in kept):
            kept.append(word)
    return tuple(sorted(kept))
