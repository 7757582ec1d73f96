"""Turns the tokens of one call into its stream of GenerateResponse messages."""

from collections.abc import Awaitable, Callable, Iterator

from smg_grpc_proto.generated import trtllm_service_pb2 as tl

from ...executor.messages import FinishReason, Output
from ...executor.stream import TokenStream
from ...text.answer import AnswerText
from ...text.tokenizer import ChatTokenizer


class TokenAnswer:
    """One call's answer: its sequences, which are beams, the best ones first."""

    def __init__(self, request: tl.GenerateRequest, tokenizer: ChatTokenizer, sequences: int) -> None:
        self._id = request.request_id
        self._streaming = request.streaming
        self._prompt_tokens = len(request.tokenized.input_token_ids)
        self._cached_tokens = 0
        self._sequences = [_Sequence(request, tokenizer) for _ in range(sequences)]

    async def send(
        self, stream: TokenStream, write: Callable[[tl.GenerateResponse], Awaitable[None]]
    ) -> None:
        """Writes the messages of the call. Raises what `TokenStream.take` raises."""
        open_sequences = len(self._sequences)
        while True:
            for output in await stream.take():
                self._cached_tokens = output.cached_prompt_tokens or self._cached_tokens
                index = output.beam_index
                if index < len(self._sequences):
                    sequence = self._sequences[index]
                    sequence.add(output)
                    for message in self._news(sequence, index):
                        await write(message)
                    open_sequences -= sequence.finish_reason is not None
                if not open_sequences or output.last:
                    return

    def _news(self, sequence: "_Sequence", index: int) -> Iterator[tl.GenerateResponse]:
        usage = {
            "sequence_index": index,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": len(sequence.token_ids),
            "cached_tokens": self._cached_tokens,
        }
        if self._streaming and sequence.sent < sequence.sendable:
            new = slice(sequence.sent, sequence.sendable)
            sequence.sent = sequence.sendable
            chunk = tl.GenerateStreamChunk(
                token_ids=sequence.token_ids[new], logprobs=sequence.logprobs[new], **usage
            )
            yield tl.GenerateResponse(request_id=self._id, chunk=chunk)
        if sequence.finish_reason is not None:
            complete = tl.GenerateComplete(
                output_token_ids=sequence.token_ids[: sequence.sendable],
                logprobs=sequence.logprobs[: sequence.sendable],
                finish_reason=sequence.finish_reason,
                **usage,
            )
            if sequence.stop_word is not None:
                complete.matched_stop_str = sequence.stop_word
            elif sequence.stop_token_id is not None:
                complete.matched_token_id = sequence.stop_token_id
            yield tl.GenerateResponse(request_id=self._id, complete=complete)


class _Sequence:
    """The tokens of one sequence, and how many of them may be sent.

    What spells a stop string stays here, with one exception. A token that spells the end of the answer
    and the beginning of the stop string at once can neither be sent alone, since the reader would take
    that beginning for text, nor be kept: then the whole stop string is sent, and the reader, whose
    string it is, cuts there.
    """

    def __init__(self, request: tl.GenerateRequest, tokenizer: ChatTokenizer) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[tl.TokenLogprob] = []
        #: Tokens that are not held back.
        self.sendable = 0
        #: Tokens that have been sent in chunks.
        self.sent = 0
        self.finish_reason: str | None = None
        #: The caller's token that ended the sequence.
        self.stop_token_id: int | None = None
        self._tokenizer = tokenizer
        self._text = AnswerText(tokenizer, request.stop)
        self._text_length = 0
        self._stop_token_ids = frozenset(request.stop_token_ids)
        self._end_token_ids = self._stop_token_ids.union(tokenizer.stop_token_ids)
        self._keeps_stop = request.include_stop_token_in_output

    @property
    def stop_word(self) -> str | None:
        """The stop string that ended the sequence."""
        return self._text.stop_word

    def add(self, output: Output) -> None:
        """Adds what the executor produced."""
        token_ids, ended = output.token_ids, output.finish_reason
        # Executors end at the tokens that end an answer; not all of them know of the caller's.
        for place, token_id in enumerate(token_ids):
            if token_id in self._stop_token_ids:
                token_ids, ended = token_ids[: place + 1], FinishReason.STOP
                break
        before = self._text.consumed_tokens
        self._text_length += len(self._text.feed(token_ids))
        if ended is not None:
            self._text_length += len(self._text.finish())
        consumed = self._text.consumed_tokens - before
        self.token_ids += token_ids[:consumed]
        self.logprobs += map(_logprob, *_columns(output, consumed))
        self.sendable = self._text.released_tokens
        if self._text.stop_word is not None:
            self._end_at_stop_word()
        elif ended is not None:
            self._end(ended)

    def _end_at_stop_word(self) -> None:
        # Gateways pass the reason on to OpenAI's callers, who know no other word for it than "stop".
        self.finish_reason = "stop"
        released = self._tokenizer.token_bytes.text(self.token_ids[: self.sendable])
        if self._keeps_stop or len(released) < self._text_length:
            self.sendable = len(self.token_ids)

    def _end(self, ended: FinishReason) -> None:
        self.finish_reason = "stop" if ended is FinishReason.STOP else "length"
        self.sendable = len(self.token_ids)
        last = self.token_ids[-1] if self.token_ids else None
        if ended is FinishReason.STOP and last in self._end_token_ids:
            self.sendable -= not self._keeps_stop
            if last in self._stop_token_ids:
                self.stop_token_id = last


def _columns(output: Output, count: int) -> tuple[list[int], list[float], list[list[tuple[int, float]]]]:
    """Token ids, log-probabilities and alternatives of the first tokens; no rows if none were asked for."""
    if not output.logprobs:
        return [], [], []
    alternatives = output.top_logprobs or [[]] * count
    return output.token_ids[:count], output.logprobs[:count], alternatives[:count]


def _logprob(token_id: int, logprob: float, alternatives: list[tuple[int, float]]) -> tl.TokenLogprob:
    return tl.TokenLogprob(
        token_id=token_id,
        logprob=logprob,
        top_logprobs=[tl.TopLogprob(token_id=i, logprob=p) for i, p in alternatives],
    )
