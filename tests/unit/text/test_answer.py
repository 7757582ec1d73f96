"""What AnswerText sends is the decoded text up to the first stop word, however tokens and feeds are cut."""

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizerFast

from mistralchat_server.text.answer import AnswerText
from mistralchat_server.text.gguf_vocabulary import build_tokenizer
from mistralchat_server.text.tokenizer import ChatTokenizer

MistralLoader = Callable[..., ChatTokenizer]
_PROPERTY = settings(derandomize=True, max_examples=250, deadline=None)
_WORD = st.text("ab \n,.eéß日🎉\ufffdTh", min_size=1, max_size=5)
_TEXT = "The café, 東京 🎉👩‍👩‍👧:\n\n  x = 1;\r\n\ta naïve “test” ...ದ ab aab abab\ufffd"


def expected(text: str, stop_words: Sequence[str]) -> tuple[str, str | None]:
    """By the definition alone: the occurrence that ends first, then the one listed first."""
    found = [(text.find(word) + len(word), order) for order, word in enumerate(stop_words) if word in text]
    if not found:
        return text, None
    end, order = min(found)
    return text[: end - len(stop_words[order])], stop_words[order]


def check(
    text: str,
    tokenizer: ChatTokenizer,
    token_ids: Sequence[int],
    stop_words: Sequence[str],
    cuts: Sequence[int],
) -> None:
    """Feeds the tokens in pieces and compares everything that AnswerText tells with `text`."""
    answer = AnswerText(tokenizer, stop_words)
    whole, stop_word = expected(text, stop_words)
    sent = ""
    edges = [0, *sorted(cut % (len(token_ids) + 1) for cut in cuts), len(token_ids)]
    for start, end in itertools.pairwise(edges):
        piece = answer.feed(token_ids[start:end])
        piece.encode()  # no lone surrogates
        sent += piece
        assert whole.startswith(sent)
        assert answer.released_tokens <= answer.consumed_tokens <= end
        assert_released(answer, token_ids, sent)
    sent += answer.finish()
    assert (sent, answer.stop_word) == (whole, stop_word)
    assert_released(answer, token_ids, sent)
    if stop_word is None:
        assert answer.released_tokens == answer.consumed_tokens == len(token_ids)
    at_once = AnswerText(tokenizer, stop_words)
    assert at_once.feed(token_ids) + at_once.finish() == whole
    assert at_once.consumed_tokens == answer.consumed_tokens
    assert at_once.released_tokens == answer.released_tokens
    assert answer.finish() == ""
    before = answer.consumed_tokens
    if stop_word is not None:
        assert answer.feed(token_ids) == ""
        assert answer.consumed_tokens == before


def assert_released(answer: AnswerText, token_ids: Sequence[int], sent: str) -> None:
    """Released are exactly the tokens whose text ends within what has been sent."""
    table = answer._bytes
    spelled = b""
    ends = []
    for token_id in token_ids[: answer.consumed_tokens]:
        spelled += table[token_id]
        begun = spelled.decode("utf-8", "replace")  # a character that is only begun counts as one
        ends.append(len(begun.removeprefix(" ") if table.strips_first_space else begun))
    exact = sum(end <= len(sent) for end in ends)
    if "\ufffd" in spelled.decode("utf-8", "replace"):
        # An invalid beginning of several bytes can become several characters: its tokens leave together.
        assert answer.released_tokens <= exact
    else:
        assert answer.released_tokens == exact


def _byte_level_ids(tokenizer: ChatTokenizer) -> st.SearchStrategy[list[int]]:
    # Single bytes and pieces of characters are rare in a vocabulary; here they are common.
    partial = [i for i in range(tokenizer.vocab_size) if "\ufffd" in tokenizer.token_text(i)]
    ordinary = st.integers(-1, tokenizer.vocab_size + 1)
    real = tokenizer.backend.encode(_TEXT, add_special_tokens=False).ids
    return st.lists(
        st.one_of(
            ordinary, st.sampled_from(partial), st.sampled_from(real), st.sampled_from([0, 1, 2, 2**32])
        ),
        max_size=14,
    )


def test_random_byte_level_tokens(smollm: ChatTokenizer) -> None:
    @_PROPERTY
    @given(
        _byte_level_ids(smollm),
        st.lists(_WORD, max_size=3),
        st.lists(st.integers(0, 20), max_size=6),
        st.data(),
    )
    def run(token_ids: list[int], stop_words: list[str], cuts: list[int], data: st.DataObject) -> None:
        text = smollm.decode([i for i in token_ids if 0 <= i < 2**32])
        check(text, smollm, token_ids, [*stop_words, *_words_of(text, data)], cuts)

    run()


def test_random_sentencepiece_tokens(
    load_mistral: MistralLoader, sentencepiece: Callable[[int], SentencePieceProcessor]
) -> None:
    tokenizer = load_mistral(3)
    model = sentencepiece(3)
    real = tokenizer.backend.encode(_TEXT, add_special_tokens=False).ids
    first_byte = model.piece_to_id("<0x00>")
    ids = st.lists(
        st.one_of(
            st.integers(1, tokenizer.vocab_size - 1),
            st.integers(first_byte, first_byte + 255),
            st.sampled_from([first_byte + byte for byte in "é日🎉\n".encode()]),
            st.sampled_from(real),
            st.sampled_from([model.piece_to_id("▁"), model.piece_to_id("▁a"), 1, 3]),
        ),
        max_size=14,
    )

    @_PROPERTY
    @given(ids, st.lists(_WORD, max_size=3), st.lists(st.integers(0, 20), max_size=6), st.data())
    def run(token_ids: list[int], stop_words: list[str], cuts: list[int], data: st.DataObject) -> None:
        text = model.decode([i for i in token_ids if not model.is_control(i)])
        check(text, tokenizer, token_ids, [*stop_words, *_words_of(text, data)], cuts)

    run()


def _words_of(text: str, data: st.DataObject) -> list[str]:
    """Stop words that do occur, overlapping ones among them."""
    if not text:
        return []
    places = data.draw(st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(1, 6)), max_size=2))
    return [text[start : start + length] for start, length in places]


@pytest.mark.parametrize("edges", [[], list(range(200))])
def test_valid_text_equals_the_tokenizers_own_decoder(
    smollm: ChatTokenizer, load_mistral: MistralLoader, edges: list[int]
) -> None:
    for tokenizer in (smollm, load_mistral(1), load_mistral(3)):
        token_ids = tokenizer.backend.encode(_TEXT, add_special_tokens=False).ids
        assert tokenizer.decode(token_ids) == _TEXT
        check(_TEXT, tokenizer, token_ids, [], edges)


Feeder = Callable[[str, Sequence[str]], tuple[list[str], AnswerText]]


@pytest.fixture
def characters(smollm: ChatTokenizer) -> Feeder:
    """Feeds a text one character, and one token, at a time; returns what each token released."""

    def feed(text: str, stop_words: Sequence[str]) -> tuple[list[str], AnswerText]:
        answer = AnswerText(smollm, stop_words)
        ids = [i for c in text for i in smollm.backend.encode(c, add_special_tokens=False).ids]
        return [answer.feed([token_id]) for token_id in ids], answer

    return feed


def test_of_two_stop_words_the_one_that_is_complete_first_wins(characters: Feeder) -> None:
    pieces, answer = characters("xabcd", ["abcd", "bc"])
    assert pieces == ["x", "", "", "a", ""]
    assert (answer.stop_word, answer.consumed_tokens, answer.released_tokens) == ("bc", 4, 2)


@pytest.mark.parametrize(("stop_words", "text"), [(["bc", "abc"], "xa"), (["abc", "bc"], "x")])
def test_of_two_complete_at_the_same_place_the_one_listed_first_wins(
    characters: Feeder, stop_words: list[str], text: str
) -> None:
    pieces, answer = characters("xabc", stop_words)
    assert "".join(pieces) == text
    assert answer.stop_word == stop_words[0]


def test_a_beginning_that_comes_to_nothing_is_released_as_soon_as_that_is_clear(characters: Feeder) -> None:
    pieces, answer = characters("aab aac", ["aac"])
    assert pieces == ["", "", "aab", " ", "", "", ""]
    assert (answer.stop_word, answer.released_tokens, answer.finish()) == ("aac", 4, "")


def test_held_text_leaves_when_the_answer_ends(characters: Feeder) -> None:
    pieces, answer = characters("end##", ["###"])
    assert pieces == ["e", "n", "d", "", ""]
    assert (answer.released_tokens, answer.finish(), answer.released_tokens) == (3, "##", 5)


def test_an_incomplete_character_ends_as_u_fffd(smollm: ChatTokenizer) -> None:
    ids = smollm.backend.encode("ok🎉", add_special_tokens=False).ids[:-1]
    for stop_words in ([], ["z"]):
        answer = AnswerText(smollm, stop_words)
        assert answer.feed(ids) == "ok"
        assert answer.released_tokens < len(ids)
        assert answer.finish() == "\ufffd"
        assert answer.released_tokens == len(ids)


def test_a_stop_word_can_hold_the_replacement_of_an_incomplete_character(smollm: ChatTokenizer) -> None:
    ids = smollm.backend.encode("ok🎉", add_special_tokens=False).ids[:-1]
    answer = AnswerText(smollm, ["k\ufffd"])
    assert answer.feed(ids) == "o"
    assert answer.finish() == ""
    assert answer.stop_word == "k\ufffd"


def test_a_newline_is_released_at_once_though_it_is_a_byte_token(load_mistral: MistralLoader) -> None:
    tokenizer = load_mistral(1)
    newline = tokenizer.backend.token_to_id("<0x0A>")
    assert newline is not None
    assert AnswerText(tokenizer).feed([newline]) == "\n"
    answer = AnswerText(tokenizer, ["\n\n"])
    assert [answer.feed([newline]) for _ in range(2)] == ["", ""]
    assert (answer.stop_word, answer.consumed_tokens, answer.released_tokens) == ("\n\n", 2, 0)


def test_a_token_that_ends_one_character_and_begins_another_counts_exactly() -> None:
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": ["Ã ©"],
    }
    vocabulary = ["Ġ", "Ã", "©Ã", "©#", "#", "©", "Ã©"]  # 0xC3, 0xA9 0xC3, 0xA9 "#", ...
    backend = build_tokenizer(metadata | {"tokenizer.ggml.tokens": vocabulary})
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, chat_template="x"
    )
    answer = AnswerText(ChatTokenizer(wrapped, (), None), ["##", "#!"])
    assert [(answer.feed([i]), answer.released_tokens) for i in (1, 2, 3)] == [("", 0), ("é", 1), ("é", 2)]
    assert (answer.feed([4]), answer.stop_word, answer.released_tokens) == ("", "##", 2)


def test_special_tokens_have_no_text_and_are_released_in_order(smollm: ChatTokenizer) -> None:
    hello = smollm.backend.encode("Hello", add_special_tokens=False).ids
    answer = AnswerText(smollm, ["lo!"])
    assert answer.feed([1, *hello, 2]) == "Hel"
    assert answer.released_tokens == 1  # the rest waits for "lo"
    assert answer.finish() == "lo"
    assert answer.released_tokens == len(hello) + 2


def test_the_largest_stop_words_find_their_place(smollm: ChatTokenizer) -> None:
    words = ["ab" * 127 + chr(0x4E00 + i) for i in range(64)]
    text = "x" + "ab" * 300 + chr(0x4E00 + 63) + "y"
    ids = smollm.backend.encode(text, add_special_tokens=False).ids
    check(text, smollm, ids, words, list(range(len(ids))))
