"""Turns the tokens of one call into its stream of ChatResponse messages."""

import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from google.protobuf.duration_pb2 import Duration

from mistralchat.v1 import chat_pb2 as pb

from ..executor.messages import FinishReason, Output
from ..executor.stream import Linger, TokenStream
from ..text.answer import AnswerText
from ..text.tokenizer import ChatTokenizer

_FINISH = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


class Answer:
    """One call's answer, on all its beams."""

    __slots__ = ("_beams", "_options", "_received_at", "_usage")

    def __init__(
        self, request: pb.ChatRequest, tokenizer: ChatTokenizer, prompt_tokens: int, received_at: float
    ) -> None:
        """`received_at`: when the request had been read, in seconds of the monotonic clock."""
        self._received_at = received_at
        self._options = request.stream_options
        width = request.beam_width if request.HasField("beam_width") else 1
        self._beams = [
            _Beam(index, tokenizer, request.stop_words_list, request.logprobs) for index in range(width)
        ]
        self._usage = pb.Usage(prompt_tokens=prompt_tokens)

    async def send(self, stream: TokenStream, write: Callable[[pb.ChatResponse], Awaitable[None]]) -> None:
        """Writes the messages of the call, up to its last. Raises what `TokenStream.take` raises.

        Not a generator: asyncio keeps a weak reference to each asynchronous one, a kilobyte for each stream.
        """
        open_beams = len(self._beams)
        linger = _linger(self._options)
        while True:
            for output in self._bounded(await stream.take(linger)):
                if output.cached_prompt_tokens is not None:
                    self._usage.cached_prompt_tokens = output.cached_prompt_tokens
                beam = self._beams[output.beam_index]
                message = beam.message(output)
                open_beams -= beam.ended
                if not open_beams or output.last:
                    self._complete(message, stream)
                    await write(message)
                    return
                if message.text or message.logprobs or beam.ended:
                    await write(message)

    def without_generation(self, text: str, finish_reason: pb.FinishReason) -> pb.ChatResponse:
        """The one message of a call that generates nothing."""
        message = pb.ChatResponse(text=text, finish_reason=finish_reason)
        self._complete(message, TokenStream())
        return message

    def _bounded(self, outputs: list[Output]) -> Iterator[Output]:
        """The outputs, cut where they hold more tokens than one message may."""
        most = self._options.max_tokens_per_message or sys.maxsize
        for output in outputs:
            if len(output.token_ids) > most:
                yield from output.pieces(most)
            else:
                yield output

    def _complete(self, message: pb.ChatResponse, stream: TokenStream) -> None:
        """Adds what the last message of a call holds."""
        usage = message.usage
        usage.CopyFrom(self._usage)
        usage.completion_tokens = sum(beam.tokens for beam in self._beams)
        usage.total_tokens = usage.prompt_tokens + usage.completion_tokens
        timings = message.timings
        if stream.started_at is not None:
            timings.queued.CopyFrom(self._since(stream.started_at))
        if stream.first_token_at is not None:
            timings.time_to_first_token.CopyFrom(self._since(stream.first_token_at))
        timings.total.CopyFrom(self._since(stream.last_token_at or time.monotonic()))

    def _since(self, moment: float) -> Duration:
        duration = Duration()
        duration.FromNanoseconds(int((moment - self._received_at) * 1e9))
        return duration


class _Beam:
    """The text of one beam, and how far it has got."""

    __slots__ = ("_held", "_index", "_released", "_text", "_tokenizer", "ended", "tokens")

    def __init__(
        self, index: int, tokenizer: ChatTokenizer, stop_words: Sequence[str], logprobs: bool
    ) -> None:
        self.tokens = 0
        self.ended = False
        self._index = index
        self._tokenizer = tokenizer
        self._text = AnswerText(tokenizer, stop_words)
        #: Log-probabilities of tokens whose text is still held back; None if nobody asked for them.
        self._held: list[pb.TokenLogprob] | None = [] if logprobs else None
        self._released = 0

    def message(self, output: Output) -> pb.ChatResponse:
        """What an output adds to the beam."""
        text = self._text.feed(output.token_ids)
        if output.finish_reason is not None:
            text += self._text.finish()
        message = pb.ChatResponse(text=text, beam_index=self._index)
        if self._text.stop_word is not None:
            message.finish_reason = pb.FINISH_REASON_STOP_WORD
            message.stop_word = self._text.stop_word
        elif output.finish_reason is not None:
            message.finish_reason = _FINISH[output.finish_reason]
        self.ended = message.finish_reason != pb.FINISH_REASON_UNSPECIFIED
        self.tokens = self._text.consumed_tokens
        if self._held is not None:
            self._held += self._logprobs(output)
            newly_released = self._text.released_tokens - self._released
            self._released = self._text.released_tokens
            message.logprobs.extend(self._held[:newly_released])
            del self._held[:newly_released]
        return message

    def _logprobs(self, output: Output) -> Iterator[pb.TokenLogprob]:
        text = self._tokenizer.token_text
        for place, (token_id, logprob) in enumerate(zip(output.token_ids, output.logprobs, strict=True)):
            alternatives = output.top_logprobs[place] if output.top_logprobs else ()
            yield pb.TokenLogprob(
                token=text(token_id),
                token_id=token_id,
                logprob=logprob,
                top_logprobs=[pb.TopLogprob(token=text(i), token_id=i, logprob=p) for i, p in alternatives],
            )


def _linger(options: pb.StreamOptions) -> Linger | None:
    if not options.max_delay_ms:
        return None
    if options.max_tokens_per_message:
        return Linger(options.max_delay_ms / 1_000, options.max_tokens_per_message)
    return Linger(options.max_delay_ms / 1_000)
