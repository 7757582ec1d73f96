"""The ChatService of the contract."""

import asyncio
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import grpc

from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc

from ..admission.admission import Admission
from ..executor.client import ExecutorClient
from ..executor.messages import Description, FailureKind
from ..executor.stream import ExecutorGoneError, GenerationError
from ..text.tokenizer import ChatTokenizer, TemplateRefusal, Turn
from . import rules
from .answer import Answer
from .budget import Budget
from .errors import CallError, Violation, harmful, invalid, unavailable, unsupported
from .outage import Outage
from .readers import Readers
from .slots import Generation, admit, slot
from .submission import executor_request

_ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}
#: Characters from which on a conversation is tokenized in a thread: about a millisecond's worth.
_LONG_CONVERSATION = 4_000
#: Seconds after which a caller may try again whose request is not to run beside others like it.
_RETRY_AFTER = 2.0

if TYPE_CHECKING:
    # Generic for a type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]


class ChatService(chat_pb2_grpc.ChatServiceServicer):
    """Answers over an executor. Until `open` is called, every call ends with UNAVAILABLE."""

    def __init__(self, admission: Admission, readers: Readers) -> None:
        self._admission = admission
        self._readers = readers
        self._model_name = ""
        self._tokenizer: ChatTokenizer | None = None
        self._executor: ExecutorClient | None = None
        self._draining = False
        #: How long there will be no executor.
        self.outage = Outage()

    def open(self, model_name: str, tokenizer: ChatTokenizer, executor: ExecutorClient) -> None:
        """Begins to answer calls."""
        self._model_name = model_name
        self._tokenizer = tokenizer
        self._executor = executor

    def drain(self) -> None:
        """Refuses new calls; open ones go on."""
        self._draining = True

    # gRPC takes a coroutine that writes, too; its stubs know of generators only.
    async def Chat(  # type: ignore[override]  # noqa: N802
        self, request: pb.ChatRequest, context: "Context"
    ) -> None:
        """Streams one answer. Raises `CallError`."""
        received_at = time.monotonic()
        tokenizer, executor, description = self.ready()
        _refuse_invalid(request, description)
        refuse_unsupported(request, description)
        with admit(self._admission, self.outage, context) as place, self._readers.writer(context) as write:
            prompt = await _prompt(tokenizer, request.messages)
            budget = Budget.of(request, len(prompt), description.context_length)
            answer = Answer(request, tokenizer, len(prompt), received_at)
            if budget.truncated_to is not None:
                text = tokenizer.decode(prompt[: budget.truncated_to])
                await write(answer.without_generation(text, pb.FINISH_REASON_PROMPT_TRUNCATED))
                return
            if budget.max_new_tokens == 0:
                await write(answer.without_generation("", pb.FINISH_REASON_LENGTH))
                return
            submission = executor_request(
                request, executor.new_id(), prompt, budget, tokenizer.stop_token_ids
            )
            try:
                await slot(place, self.outage, len(prompt))
                with Generation(place, executor, submission) as stream:
                    await answer.send(stream, write)
            except GenerationError as error:
                raise failed(error) from error
            except ExecutorGoneError as error:
                raise stopped(self.outage) from error

    async def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: "Context"
    ) -> pb.GetModelResponse:
        """Describes the model. Raises `CallError`."""
        _, _, description = self.ready()
        with_beams = description.unsupported_with_beam_search
        return pb.GetModelResponse(
            name=self._model_name,
            context_length=description.context_length,
            precision=description.precision,
            executor=description.executor,
            limits=pb.Limits(
                max_beam_width=description.max_beam_width,
                max_batch_size=description.max_batch_size,
                max_messages=rules.MAX_MESSAGES,
                max_bad_words=rules.MAX_BAD_WORDS,
                max_stop_words=rules.MAX_STOP_WORDS,
            ),
            supported_parameters=[name for name in rules.PARAMETERS if name not in description.unsupported],
            unsupported_parameters=[
                pb.UnsupportedParameter(name=name, reason=reason, with_beam_search_only=reasons is with_beams)
                for reasons in (description.unsupported, with_beams)
                for name, reason in reasons.items()
            ],
            server_version=version("mistralchat"),
        )

    async def CountTokens(  # noqa: N802
        self, request: pb.CountTokensRequest, context: "Context"
    ) -> pb.CountTokensResponse:
        """Counts the tokens of a conversation. Raises `CallError`."""
        tokenizer, _, description = self.ready()
        if violations := list(rules.message_violations(request.messages)):
            raise invalid(violations)
        prompt = await _prompt(tokenizer, request.messages)
        return pb.CountTokensResponse(prompt_tokens=len(prompt), context_length=description.context_length)

    def ready(self) -> tuple[ChatTokenizer, ExecutorClient, Description]:
        """What a call needs. Raises UNAVAILABLE where the server has not all of it, or is draining."""
        if self._draining:
            raise unavailable("the server is shutting down", self.outage.retry_after)
        if self._tokenizer is None or self._executor is None:
            raise unavailable("the model is still being loaded", self.outage.retry_after)
        if self._executor.description is None:
            raise stopped(self.outage)
        return self._tokenizer, self._executor, self._executor.description


def _refuse_invalid(request: pb.ChatRequest, description: Description) -> None:
    if violations := list(rules.violations(request, description.max_beam_width)):
        raise invalid(violations)


def refuse_unsupported(request: pb.ChatRequest, description: Description) -> None:
    """Raises UNIMPLEMENTED for the first parameter that the executor cannot honour."""
    for name, reason in description.unsupported.items():
        if rules.asks_for(request, name):
            raise unsupported(name, reason)
    if rules.asks_for(request, "beam_width"):
        for name, reason in description.unsupported_with_beam_search.items():
            if rules.asks_for(request, name):
                raise unsupported(name, f"together with beam_width above 1: {reason}")


async def _prompt(tokenizer: ChatTokenizer, messages: Sequence[pb.Message]) -> list[int]:
    turns = [Turn(_ROLES[message.role], message.content) for message in messages]
    try:
        if sum(len(turn.content) for turn in turns) < _LONG_CONVERSATION:
            return tokenizer.prompt(turns)
        return await asyncio.to_thread(tokenizer.prompt, turns)
    except TemplateRefusal as refusal:
        raise invalid([Violation("messages", str(refusal))]) from refusal


def stopped(outage: Outage) -> CallError:
    """What a call ends with when there is no executor."""
    return unavailable("the executor has stopped; it may be back soon", outage.retry_after)


def failed(error: GenerationError) -> CallError | RuntimeError:
    """What a call ends with whose request the executor refused or could not finish."""
    match error.kind:
        case FailureKind.INVALID:
            return invalid([Violation(error.parameter or "messages", str(error))])
        case FailureKind.UNSUPPORTED:
            return unsupported(error.parameter or "a parameter", str(error))
        case FailureKind.SUSPECT:
            return unavailable(str(error), _RETRY_AFTER)
        case FailureKind.HARMFUL:
            return harmful(str(error))
        case FailureKind.INTERNAL:
            return RuntimeError(str(error))
