"""The LLM class: takes requests, computes them in a thread, hands responses to the caller's event loop."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from packaging.version import Version
from pydantic import BaseModel

import tensorrt_llm

from .errors import RequestError
from .model import IGNORED, Sequence, StandInTokenizer
from .sampling_params import SamplingParams

#: Of one turn of the engine.
_ITERATION_SECONDS = 0.001
#: A file at whose appearance the worker dies.
DEATH = os.environ.get("STAND_IN_DEATH")
_instances: list["LLM"] = []


class KvCacheConfig(BaseModel, extra="forbid"):
    free_gpu_memory_fraction: float = 0.9
    dtype: str = "auto"
    enable_block_reuse: bool = True


class CudaGraphConfig(BaseModel, extra="forbid"):
    batch_sizes: list[int] | None = None
    max_batch_size: int = 0
    enable_padding: bool = False


class LlmArgs(BaseModel, extra="forbid", arbitrary_types_allowed=True):
    model: str
    tokenizer: Any = None
    skip_tokenizer_init: bool = False
    tensor_parallel_size: int = 1
    dtype: str = "auto"
    max_batch_size: int = 2048
    max_num_tokens: int = 8192
    max_seq_len: int | None = None
    max_beam_width: int = 1
    kv_cache_config: KvCacheConfig = KvCacheConfig()
    enable_chunked_prefill: bool = False
    cuda_graph_config: CudaGraphConfig | None = CudaGraphConfig()
    guided_decoding_backend: Literal["xgrammar", "llguidance"] | None = None
    sampler_type: Literal["auto", "TorchSampler", "TRTLLMSampler"] = "auto"
    stream_interval: int = 1


class Logprob:
    def __init__(self, logprob: float, rank: int | None = None) -> None:
        self.logprob = logprob
        self.rank = rank


class CompletionOutput:
    """Grows with each response; the diffs are what the latest added."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.text = ""
        self.token_ids: list[int] = []
        self.logprobs: list[dict[int, Logprob]] = []
        self.cumulative_logprob: float | None = None
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self._seen = 0

    def take(self, sequence: Sequence, reason: str | None) -> None:
        self._seen = len(self.token_ids)
        self.token_ids = sequence.token_ids[:]
        self.logprobs = [
            {token: Logprob(value) for token, value in position.items()} for position in sequence.logprobs
        ]
        self.cumulative_logprob = sequence.score
        self.finish_reason = reason

    @property
    def token_ids_diff(self) -> list[int]:
        return self.token_ids[self._seen :]

    @property
    def logprobs_diff(self) -> list[dict[int, Logprob]]:
        return self.logprobs[self._seen :]


class RequestOutput:
    """Asynchronously iterable; every turn gives this same object, with one more response in it."""

    def __init__(
        self, llm: "LLM", request_id: int, prompt: list[int], params: SamplingParams, streaming: bool
    ) -> None:
        self.request_id = request_id
        self.prompt_token_ids = prompt
        self.outputs = [CompletionOutput(index) for index in range(params.n)]
        self.finished = False
        self.cached_tokens = 0
        self.aborted = False
        self.params = params
        self.streaming = streaming
        self._llm = llm
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def abort(self) -> None:
        self.aborted = True

    def respond(self, response: Any) -> None:
        """Called in the engine's thread."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, response)

    def __aiter__(self) -> "RequestOutput":
        return self

    async def __anext__(self) -> "RequestOutput":
        if self.finished:
            raise StopAsyncIteration
        response = await self._queue.get()
        if isinstance(response, Exception):
            raise response
        for output, (sequence, reason) in zip(self.outputs, response, strict=True):
            output.take(sequence, reason)
        self.finished = all(output.finish_reason for output in self.outputs)
        return self


class LLM:
    """One engine."""

    def __init__(self, model: str, **arguments: Any) -> None:
        self.args = LlmArgs(model=model, **arguments)
        self._version = Version(tensorrt_llm.__version__)
        if self._version >= Version("1.3.0rc26") and self.args.sampler_type == "TRTLLMSampler":
            raise ValueError("sampler_type TRTLLMSampler is no longer supported")
        if failure := os.environ.get("STAND_IN_LOAD_ERROR"):
            raise RuntimeError(failure)
        self.tokenizer = None if self.args.skip_tokenizer_init else StandInTokenizer(Path(model))
        if self.args.guided_decoding_backend is not None:
            assert self.tokenizer is not None
        #: All that has been asked for, in order.
        self.received: list[RequestOutput] = []
        self._generators: dict[int, Iterator[Any]] = {}
        self._lock = threading.Lock()
        self._stopped = False
        self._error: Exception | None = None
        self._silent = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        _instances.append(self)

    def generate_async(
        self,
        inputs: list[int],
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
    ) -> RequestOutput:
        if self._stopped:
            raise RuntimeError("LLM is shutting down")
        if self._error is not None:
            raise self._error
        if not isinstance(inputs, list) or not all(type(token) is int for token in inputs):
            raise TypeError(f"The inputs must be type str or list of int, but got {type(inputs)}")
        params = sampling_params or SamplingParams()
        if not self.args.enable_chunked_prefill and len(inputs) > self.args.max_num_tokens:
            raise ValueError("the prompt's length should not exceed max_num_tokens")
        with self._lock:
            result = RequestOutput(self, len(self.received), inputs, params, streaming)
            self.received.append(result)
            self._generators[result.request_id] = self._responses(result)
        return result

    def shutdown(self) -> None:
        self._stopped = True
        self._thread.join()

    def die(self, error: Exception | None) -> None:
        """A fatal error of the worker, or without one, its sudden end: nothing is heard any more."""
        self._error = error
        self._silent = error is None

    @property
    def _penalties(self) -> bool:
        modern = self._version >= Version("1.3.0rc26")
        return "penalties" not in IGNORED and (modern or self.args.sampler_type == "TRTLLMSampler")

    def _run(self) -> None:
        while not self._stopped:
            time.sleep(_ITERATION_SECONDS)
            with self._lock:
                running = [result for result in self.received if result.request_id in self._generators]
            if DEATH is not None and Path(DEATH).exists():
                self.die(RuntimeError("the worker process ended with signal 9"))
            if self._silent:
                continue
            for result in running[: self.args.max_batch_size]:
                self._step(result)

    def _step(self, result: RequestOutput) -> None:
        if self._error is not None:
            result.respond(self._error)
            return self._forget(result)
        try:
            response = next(self._generators[result.request_id])
        except RequestError as error:
            result.respond(error)
            return self._forget(result)
        ended = all(reason for _, reason in response)
        if result.streaming or ended:
            result.respond(response)
        return self._forget(result) if ended else None

    def _forget(self, result: RequestOutput) -> None:
        with self._lock:
            del self._generators[result.request_id]

    def _responses(self, result: RequestOutput) -> Iterator[list[tuple[Sequence, str | None]]]:
        self._validate(result)
        params = result.params
        assert self.tokenizer is not None
        first = Sequence(self.tokenizer, result.prompt_token_ids, params, self._penalties)
        beams = [first]
        while True:
            if result.aborted:
                yield [(beams[0], "cancelled")] * params.n
                return
            if params.use_beam_search:
                beams = _search_step(beams, params.best_of or 1)
            else:
                beams[0].advance()
            reasons = [beam.end_reason for beam in beams]
            ended = all(reasons)
            # A copy, since the caller looks at it while the next token is computed.
            snapshots = [beam.branch() for beam in beams[: params.n]]
            yield list(zip(snapshots, reasons if ended else [None] * params.n, strict=False))
            if ended:
                return

    def _validate(self, result: RequestOutput) -> None:
        params, most = result.params, self.args.max_beam_width
        width = params.best_of if params.use_beam_search else 1
        mixes = self._version >= Version("1.3.0rc28")
        if width != most and not (mixes and (width or 1) < most):
            raise RequestError(f"Request beam width {width} is not equal to max_beam_width {most}.")
        if len(result.prompt_token_ids) + 1 > (self.args.max_seq_len or 1_000_000):
            raise RequestError("the prompt exceeds max_seq_len")
        if params.guided_decoding is not None and self.args.guided_decoding_backend is None:
            raise RequestError("guided decoding is not enabled")


def _search_step(beams: list[Sequence], width: int) -> list[Sequence]:
    candidates = []
    for beam in beams:
        if beam.end_reason is not None:
            candidates.append(beam)
            continue
        logprobs = beam.distribution()
        for token in logprobs.argsort()[::-1][:width]:
            longer = beam.branch()
            longer.add(int(token), logprobs)
            candidates.append(longer)
    return sorted(candidates, key=lambda beam: beam.score, reverse=True)[:width]


def instances() -> list[LLM]:
    """All that have been made in this process."""
    return _instances
