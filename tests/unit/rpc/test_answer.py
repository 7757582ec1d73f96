"""A call's messages are its answer, however its tokens are divided among iterations, reads and messages."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from mistralchat.v1 import chat_pb2 as pb
from mistralchat_server.executor.messages import FinishReason, Output
from mistralchat_server.executor.stream import TokenStream
from mistralchat_server.rpc.answer import Answer
from mistralchat_server.text.byte_tokenizer import byte_tokenizer

_TOKENIZER = byte_tokenizer()
_TOKENS = {_TOKENIZER.token_bytes[i]: i for i in range(_TOKENIZER.vocab_size)}
_PROPERTY = settings(derandomize=True, max_examples=150, deadline=None)
_LETTERS = "ab #é日🎉"


@dataclass
class Script:
    """An answer, and everything that must make no difference to it."""

    data: bytes
    stop_words: list[str]
    sizes: list[int]
    """Tokens in each iteration; the last iteration has the rest."""
    reads: list[bool]
    """Whether the caller reads after an iteration; the next read takes what has gathered."""
    most: int | None
    """Tokens in a message."""
    finish: FinishReason

    def outputs(self) -> Iterator[Output]:
        """By iteration; the log-probability of a token is the negative of its place."""
        ids = [_TOKENS[bytes([byte])] for byte in self.data]
        start = 0
        for size in [*self.sizes, len(ids)]:
            end = min(start + size, len(ids))
            last = end == len(ids)
            yield Output(
                1,
                ids[start:end],
                logprobs=[-float(place) for place in range(start, end)],
                finish_reason=self.finish if last else None,
                last=last,
            )
            if last:
                return
            start = end


_SCRIPTS = st.builds(
    Script,
    st.one_of(st.text(_LETTERS, min_size=1, max_size=25).map(str.encode), st.binary(min_size=1, max_size=25)),
    st.lists(st.text(_LETTERS + "\ufffd", min_size=1, max_size=3), max_size=3),
    st.lists(st.integers(0, 6), max_size=8),
    st.lists(st.booleans(), min_size=9, max_size=9),
    st.none() | st.integers(1, 5),
    st.sampled_from(FinishReason),
)


def _expected(text: str, stop_words: list[str]) -> tuple[str, str | None]:
    """By the definition alone: the occurrence that ends first, then the one listed first."""
    found = [(text.find(word) + len(word), place) for place, word in enumerate(stop_words) if word in text]
    if not found:
        return text, None
    end, place = min(found)
    return text[: end - len(stop_words[place])], stop_words[place]


async def _messages(script: Script) -> list[pb.ChatResponse]:
    """As the caller gets them."""
    options = None if script.most is None else pb.StreamOptions(max_tokens_per_message=script.most)
    request = pb.ChatRequest(stop_words_list=script.stop_words, logprobs=True, stream_options=options)
    answer = Answer(request, _TOKENIZER, prompt_tokens=3, received_at=0.0)
    stream = TokenStream()
    received: list[pb.ChatResponse] = []

    async def write(message: pb.ChatResponse) -> None:
        received.append(message)

    reading = asyncio.create_task(answer.send(stream, write))
    for output, reads in zip(script.outputs(), script.reads, strict=False):
        stream.push(output)
        # Twice: a reader that is already waiting is woken first.
        for _ in range(2 if reads else 0):
            await asyncio.sleep(0)
    await asyncio.wait_for(reading, 5)
    return [pb.ChatResponse.FromString(message.SerializeToString()) for message in received]


@_PROPERTY
@given(_SCRIPTS)
def test_the_messages_put_together_are_the_text_up_to_the_stop_word(script: Script) -> None:
    messages = asyncio.run(_messages(script))
    text, stop_word = _expected(script.data.decode(errors="replace"), script.stop_words)
    assert "".join(message.text for message in messages) == text
    *earlier, last = messages
    assert all(message.finish_reason == pb.FINISH_REASON_UNSPECIFIED for message in earlier)
    assert not any(message.HasField("usage") for message in earlier)
    # An empty message says nothing.
    assert all(message.text or message.logprobs for message in earlier)
    if stop_word is None:
        assert last.finish_reason == (
            pb.FINISH_REASON_STOP if script.finish is FinishReason.STOP else pb.FINISH_REASON_LENGTH
        )
        assert last.usage.completion_tokens == len(script.data)
    else:
        assert (last.finish_reason, last.stop_word) == (pb.FINISH_REASON_STOP_WORD, stop_word)
        assert len(text.encode()) < last.usage.completion_tokens <= len(script.data)
    assert last.usage.total_tokens == 3 + last.usage.completion_tokens


@_PROPERTY
@given(_SCRIPTS)
def test_log_probabilities_are_those_of_the_tokens_whose_text_has_been_sent(script: Script) -> None:
    messages = asyncio.run(_messages(script))
    sent, places = "", 0
    for message in messages:
        sent += message.text
        for entry in message.logprobs:
            assert entry.logprob == -places
            assert entry.token_id == _TOKENS[script.data[places : places + 1]]
            places += 1
        # What begins a character counts as one, and is sent with the character's last byte.
        begun = script.data[:places].decode(errors="replace")
        assert len(begun) <= len(sent)
    if not any(message.stop_word for message in messages):
        assert places == len(script.data)
    else:
        assert script.data[:places].decode(errors="replace") == sent or "\ufffd" in sent


@_PROPERTY
@given(_SCRIPTS.filter(lambda script: script.most is not None))
def test_no_message_is_of_more_tokens_than_asked_for(script: Script) -> None:
    assert script.most is not None
    messages = asyncio.run(_messages(script))
    # Text that was held back leaves together with what released it; without stop words only characters are.
    if not script.stop_words:
        assert all(
            len(message.text.encode(errors="replace")) <= 3 * (script.most + 3) for message in messages
        )
    at_once = Script(script.data, script.stop_words, [], [True] * 9, None, script.finish)
    whole = asyncio.run(_messages(at_once))
    assert "".join(m.text for m in messages) == "".join(m.text for m in whole)
    assert messages[-1].finish_reason == whole[-1].finish_reason
    assert [e.token_id for m in messages for e in m.logprobs] == [
        e.token_id for m in whole for e in m.logprobs
    ]
