"""What crosses the boundary between the front end and the executor process: token ids, never text."""

from collections.abc import Iterator
from enum import IntEnum
from itertools import count

import msgspec


class FinishReason(IntEnum):
    """Why a sequence ended, as far as the executor can know: stop words are the front end's."""

    STOP = 1
    LENGTH = 2


class FailureKind(IntEnum):
    """Whose fault a failed request is, which decides the status that its caller gets."""

    INVALID = 1
    UNSUPPORTED = 2
    INTERNAL = 3
    #: Refused by the front end, as one of those that may have ended the executor (`executor/suspects.py`).
    SUSPECT = 4
    #: Refused by the front end, as one that has ended the executor twice.
    HARMFUL = 5


class ConstraintKind(IntEnum):
    """How `Constraint.sources` is meant."""

    EXCLUDED_STRINGS = 1
    JSON_SCHEMA = 2
    REGEX = 3
    GRAMMAR = 4


#: The parameter of the contract that a kind of constraint comes from.
CONSTRAINT_PARAMETER = {
    ConstraintKind.EXCLUDED_STRINGS: "bad_words_list",
    ConstraintKind.JSON_SCHEMA: "response_format.json_schema",
    ConstraintKind.REGEX: "response_format.regex",
    ConstraintKind.GRAMMAR: "response_format.grammar",
}


class Constraint(msgspec.Struct, frozen=True, array_like=True):
    """A bound on the answer's text. Equal constraints are equal objects, so they can be cached."""

    kind: ConstraintKind
    #: The strings that must not occur, in canonical order; else the one schema, regex or grammar.
    sources: tuple[str, ...]


class Request(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """One generation. The front end has checked every range; the executor refuses what it cannot honour."""

    #: One of `request_ids`.
    id: int
    prompt_token_ids: list[int]
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    beam_width: int = 1
    #: 0 is greedy decoding.
    temperature: float = 0.0
    top_p: float = 1.0
    #: 0 means all.
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    min_new_tokens: int = 0
    logprobs: bool = False
    top_logprobs: int = 0
    constraint: Constraint | None = None


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Nobody reads this request's tokens any more. Unknown ids are ignored: it may just have ended."""

    id: int


class Close(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Free the engine and end. What is still open then ends without a word."""


class Attach(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Another front end awaits `Ready` at `endpoint`, and then what concerns its requests."""

    number: int
    endpoint: str


class Detach(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """That front end has ended; its requests are cancelled."""

    number: int


Command = Request | Cancel | Close | Attach | Detach

#: Requests that one front end can make in its life.
_MOST_REQUESTS = 1 << 40


def front_end_of(request_id: int) -> int:
    """The number of the front end that a request came from; 0 is the one that started the process."""
    return request_id // _MOST_REQUESTS


def request_ids(front_end: int) -> Iterator[int]:
    """All ids that a front end may give to its requests."""
    return count(front_end * _MOST_REQUESTS + 1)


class Output(msgspec.Struct, array_like=True, gc=False):
    """What one request produced in one step; with beam search one for each beam, after the last step."""

    request_id: int
    token_ids: list[int]
    #: Of `token_ids`, one by one; empty unless asked for.
    logprobs: list[float] = []
    #: For each of `token_ids`: (token id, logprob) of the likeliest, best first.
    top_logprobs: list[list[tuple[int, float]]] = []
    beam_index: int = 0
    finish_reason: FinishReason | None = None
    #: No further output of this request follows.
    last: bool = False
    #: How many of the prompt's tokens were in the KV cache, where the executor knows.
    cached_prompt_tokens: int | None = None

    def join(self, later: "Output") -> None:
        """Adds what the same beam produced in a later step."""
        self.token_ids += later.token_ids
        self.logprobs += later.logprobs
        self.top_logprobs += later.top_logprobs
        self.finish_reason = later.finish_reason
        self.last = later.last

    def pieces(self, most: int) -> Iterator["Output"]:
        """The same in outputs of at most so many tokens; what it ends with is in the last."""
        end = len(self.token_ids)
        for start in range(0, end - most, most):
            yield self._part(start, start + most)
        rest = self._part((end - 1) // most * most, end)
        rest.finish_reason = self.finish_reason
        rest.last = self.last
        rest.cached_prompt_tokens = self.cached_prompt_tokens
        yield rest

    def _part(self, start: int, end: int) -> "Output":
        return Output(
            self.request_id,
            self.token_ids[start:end],
            self.logprobs[start:end],
            self.top_logprobs[start:end],
            self.beam_index,
        )


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A request that ended without an answer. `message` is written here, for the caller to read."""

    request_id: int
    kind: FailureKind
    message: str
    #: The parameter at fault, by its name in the contract.
    parameter: str | None = None


class Description(msgspec.Struct, frozen=True):
    """What an executor is and can do; sent once, when it is ready for requests."""

    executor: str
    precision: str
    context_length: int
    max_beam_width: int
    max_batch_size: int
    #: Parameter name (as in the contract) → why this executor cannot honour it.
    unsupported: dict[str, str] = {}
    #: The same for parameters that it cannot honour together with beam search only.
    unsupported_with_beam_search: dict[str, str] = {}


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The model is loaded."""

    description: Description


class StartFailed(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The executor cannot start; `message` is one sentence for the operator, without a traceback."""

    message: str


class Iteration(msgspec.Struct, array_like=True, tag=3):
    """Everything that one turn of the loop has to say, about all requests at once."""

    #: Turns of the loop so far.
    step: int
    #: Requests that hold or await a slot in the engine after this step, by the engine's own count.
    active: int
    #: Requests that the engine took up in this turn, and when: seconds of the machine's monotonic clock.
    started: list[tuple[int, float]]
    outputs: list[Output]
    failures: list[Failure]


Event = Ready | StartFailed | Iteration

command_encoder = msgspec.msgpack.Encoder()
command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
event_encoder = msgspec.msgpack.Encoder()
event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)
