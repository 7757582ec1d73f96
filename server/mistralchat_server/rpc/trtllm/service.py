"""The TrtllmService of the SMG gateway's protocol."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from smg_grpc_proto.generated import common_pb2, trtllm_service_pb2_grpc
from smg_grpc_proto.generated import trtllm_service_pb2 as tl

from ...admission.admission import Admission
from ...executor.stream import ExecutorGoneError, GenerationError, TokenStream
from ..budget import Budget
from ..chat import ChatService, failed, refuse_unsupported, stopped
from ..errors import CallError, invalid, unsupported
from ..readers import Readers
from ..slots import Generation, admit, slot
from ..submission import executor_request
from .answer import TokenAnswer
from .fields import refuse_unsupported as refuse_fields
from .names import renamed
from .submission import chat_request, refuse_sequences, sequences, violations
from .tokenizer_files import tokenizer_archive

SERVICE_NAME = tl.DESCRIPTOR.services_by_name["TrtllmService"].full_name
#: Bytes of the tokenizer's archive in one message.
_CHUNK = 256 * 1024

if TYPE_CHECKING:
    # Generic for a type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]


class TrtllmService(trtllm_service_pb2_grpc.TrtllmServiceServicer):  # type: ignore[misc]
    """Generates over the model and the executor that `chat` has, and counts its calls with it."""

    def __init__(self, chat: ChatService, admission: Admission, readers: Readers) -> None:
        self._chat = chat
        self._admission = admission
        self._readers = readers
        self._model: Path | None = None
        self._model_name = ""
        self._archive: bytes | None = None
        #: By request id. Nothing keeps two callers from choosing the same.
        self._open: defaultdict[str, list[TokenStream]] = defaultdict(list)

    def open(self, model_name: str, model: Path | None) -> None:
        """Says what the model is, for callers to be told."""
        self._model_name = model_name
        self._model = model

    async def Generate(  # noqa: N802
        self, request: tl.GenerateRequest, context: "Context"
    ) -> None:
        """Streams the tokens of one answer, or of its beams. Raises `CallError`."""
        try:
            tokenizer, executor, description = self._chat.ready()
            refuse_fields(request)
            refuse_sequences(request)
            chat = chat_request(request)
            broken = violations(request, chat, description.max_beam_width, tokenizer.vocab_size)
            if found := list(broken):
                raise invalid(found)
            refuse_unsupported(chat, description)
            with (
                admit(self._admission, self._chat.outage, context) as place,
                self._readers.writer(context) as write,
            ):
                prompt = list(request.tokenized.input_token_ids)
                budget = Budget.of(chat, len(prompt), description.context_length)
                ends = (*tokenizer.stop_token_ids, *request.stop_token_ids)
                submission = executor_request(chat, executor.new_id(), prompt, budget, ends)
                answer = TokenAnswer(request, tokenizer, sequences(request))
                await slot(place, self._chat.outage, len(prompt))
                with (
                    Generation(place, executor, submission) as stream,
                    self._abortable(request.request_id, stream),
                ):
                    await answer.send(stream, write)
        except CallError as error:
            raise renamed(error) from error
        except GenerationError as error:
            refusal = failed(error)
            raise renamed(refusal) if isinstance(refusal, CallError) else refusal from error
        except ExecutorGoneError as error:
            raise stopped(self._chat.outage) from error

    async def Abort(  # noqa: N802
        self, request: tl.AbortRequest, context: "Context"
    ) -> tl.AbortResponse:
        """Ends the open calls of a request id with CANCELLED."""
        streams = self._open.get(request.request_id, [])
        for stream in streams:
            # Its reader stops, and by leaving its `Generation` frees the slot, unless the executor is done.
            ended = stream.ended
            stream.fail(CallError(grpc.StatusCode.CANCELLED, "the request was aborted"))
            stream.ended = ended
        if not streams:
            return tl.AbortResponse(success=False, message="no open request has this id")
        return tl.AbortResponse(success=True)

    async def HealthCheck(  # noqa: N802
        self, request: tl.HealthCheckRequest, context: "Context"
    ) -> tl.HealthCheckResponse:
        """Says OK where a call would be taken. Raises `CallError` otherwise.

        A status in words would do by the protocol, but gateways that find a worker answering while its
        model loads register it there and then, without the model's name.
        """
        self._chat.ready()
        return tl.HealthCheckResponse(status="OK")

    async def GetModelInfo(  # noqa: N802
        self, request: tl.GetModelInfoRequest, context: "Context"
    ) -> tl.GetModelInfoResponse:
        """Describes the model, as far as the server knows it. Raises `CallError`."""
        tokenizer, _, description = self._chat.ready()
        features = {"guided_decoding": "response_format", "logprobs": "logprobs", "beam_search": "beam_width"}
        return tl.GetModelInfoResponse(
            model_id=self._model_name,
            max_input_len=description.context_length - 1,
            max_seq_len=description.context_length,
            max_batch_size=description.max_batch_size,
            vocab_size=tokenizer.vocab_size,
            supported_features=[
                feature for feature, name in features.items() if name not in description.unsupported
            ],
        )

    async def GetServerInfo(  # noqa: N802
        self, request: tl.GetServerInfoRequest, context: "Context"
    ) -> tl.GetServerInfoResponse:
        """Names the server and its executor, which alone knows how it is parallel. Raises `CallError`."""
        _, _, description = self._chat.ready()
        return tl.GetServerInfoResponse(
            version=f"mistralchat {version('mistralchat')}", backend=description.executor
        )

    async def GetTokenizer(  # noqa: N802
        self, request: common_pb2.GetTokenizerRequest, context: "Context"
    ) -> None:
        """Streams the archive of the tokenizer's files; the last message has its SHA-256."""
        tokenizer, _, _ = self._chat.ready()
        if self._archive is None:
            self._archive = await asyncio.to_thread(tokenizer_archive, self._model, tokenizer)
        archive = self._archive
        with self._readers.writer(context) as write:
            for start in range(0, len(archive), _CHUNK):
                last = start + _CHUNK >= len(archive)
                chunk = common_pb2.GetTokenizerChunk(
                    data=archive[start : start + _CHUNK],
                    sha256=hashlib.sha256(archive).hexdigest() if last else "",
                )
                await write(chunk)

    async def Embed(  # noqa: N802
        self, request: tl.EmbedRequest, context: "Context"
    ) -> tl.EmbedResponse:
        """Raises UNIMPLEMENTED."""
        raise unsupported("Embed", "the model generates text")

    async def SubscribeKvEvents(  # noqa: N802
        self, request: common_pb2.SubscribeKvEventsRequest, context: "Context"
    ) -> None:
        """Raises UNIMPLEMENTED."""
        raise unsupported("SubscribeKvEvents", "the executors do not tell what their caches hold")

    @contextmanager
    def _abortable(self, request_id: str, stream: TokenStream) -> Iterator[None]:
        self._open[request_id].append(stream)
        try:
            yield
        finally:
            self._open[request_id].remove(stream)
            if not self._open[request_id]:
                del self._open[request_id]
