"""The executor on TensorRT-LLM's LLM API."""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorrt_llm
import torch
from packaging.version import Version
from tensorrt_llm.llmapi import CudaGraphConfig, KvCacheConfig
from tensorrt_llm.llmapi import RequestError as Rejection

from ...places import places
from ..messages import CONSTRAINT_PARAMETER, Description, FailureKind, Output, Request
from ..seam import EngineDiedError, RequestError, StartError, StepResult
from .checkpoint import Checkpoint
from .options import TensorRTLLMOptions
from .proof import Proof, prove
from .sampling import beam_outputs, sampling_params, streamed_output

log = logging.getLogger(__name__)

#: Seconds that a step waits for tokens when there are none.
_WAIT = 0.004
#: Seconds without a word on any open request after which the engine counts as dead. A worker process
#: that is killed leaves the requests waiting without an error.
_SILENCE = 120.0
#: From here on the default sampler is expected to honour penalties; until here only the older one does.
_TORCH_SAMPLER_SUFFICES = Version("1.3.0rc24")


@dataclass(slots=True, eq=False)
class _Running:
    request: Request
    result: Any
    follower: "asyncio.Task[None]" = field(init=False)
    cancelled: bool = False
    #: The first output carries what is known of the prompt.
    answered: bool = False


class TensorRTLLMExecutor:
    """Submits requests to the engine, which batches them, and collects what they produced between steps.

    The engine computes in threads or processes of its own. An asyncio loop, which runs during `step`
    alone, follows every open request.
    """

    def __init__(self, model: Path, options: TensorRTLLMOptions) -> None:
        self._options = options
        self._checkpoint = Checkpoint.inspect(model, options)
        self._running: dict[int, _Running] = {}
        self._loop = asyncio.new_event_loop()
        self._arrived = asyncio.Event()
        self._result = StepResult()
        self._death: EngineDiedError | None = None
        self._heard_at = time.monotonic()
        self._require_gpus()
        self._llm = self._load()
        try:
            self._proof = self._prove()
        except EngineDiedError as error:
            raise StartError(str(error)) from error
        except BaseException:
            self.close()
            raise

    def describe(self) -> Description:
        return Description(
            executor="trtllm",
            precision=self._options.precision,
            context_length=self._checkpoint.context_length,
            max_beam_width=self._options.max_beam_width,
            max_batch_size=self._options.max_batch_size,
            unsupported=self._proof.unsupported,
            unsupported_with_beam_search=self._proof.unsupported_with_beam_search,
        )

    @property
    def active(self) -> int:
        return len(self._running)

    def submit(self, request: Request) -> None:
        if request.beam_width not in self._proof.beam_widths:
            served = " or ".join(map(str, self._proof.beam_widths))
            raise RequestError(
                FailureKind.UNSUPPORTED, f"this server's engine serves a width of {served}", "beam_width"
            )
        self._submit(request)
        # The engine does not tell when a request leaves its queue; it queues only beyond the batch size.
        self._result.started.append((request.id, time.monotonic()))

    def cancel(self, request_id: int) -> None:
        running = self._running.get(request_id)
        if running is not None and not running.cancelled:
            running.cancelled = True
            running.result.abort()

    def step(self) -> StepResult:
        self._loop.run_until_complete(self._gather())
        if self._death is not None:
            raise self._death
        result, self._result = self._result, StepResult()
        return result

    def close(self) -> None:
        followers = [running.follower for running in self._running.values()]
        for follower in followers:
            follower.cancel()
        self._loop.run_until_complete(asyncio.wait(followers) if followers else asyncio.sleep(0))
        self._loop.close()
        self._llm.shutdown()

    def _require_gpus(self) -> None:
        needed = self._options.tensor_parallel
        present = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if present == 0:
            raise StartError(
                "There is no NVIDIA GPU that can be used: check nvidia-smi, and that a container was started "
                "with --gpus."
            )
        if present < needed:
            raise StartError(f"trtllm.tensor_parallel is {needed}, and there are {present} GPUs.")
        free = [torch.cuda.mem_get_info(index)[0] for index in range(needed)]
        self._checkpoint.require_memory(free, self._options)

    def _load(self) -> Any:
        try:
            return tensorrt_llm.LLM(**_llm_arguments(self._checkpoint.path, self._options))
        except Exception as error:
            # From a worker process an error arrives as its text alone.
            if "out of memory" in str(error).lower():
                estimate = self._checkpoint.needed_memory(self._options) / 2**30
                raise StartError(
                    f"The GPU's memory does not suffice: TensorRT-LLM needs more than the {estimate:.1f} GiB "
                    "estimated. Lower trtllm.max_batch_size or trtllm.max_num_tokens."
                ) from error
            log.exception("TensorRT-LLM %s could not load the model", tensorrt_llm.__version__)
            raise StartError(
                f"TensorRT-LLM {tensorrt_llm.__version__} could not load {self._checkpoint.path}: "
                f"{_first_line(error)}"
            ) from error

    def _prove(self) -> Proof:
        options = self._options
        proof = prove(
            self._generate, self._llm.tokenizer, options.max_beam_width, options.guided_decoding == "xgrammar"
        )
        proof.require(options.max_beam_width, options.allow_unsupported, tensorrt_llm.__version__)
        return proof

    def _generate(self, request: Request) -> list[Output]:
        """One request from start to end, by itself; for the proof."""
        self._submit(request)
        beams: dict[int, Output] = {}
        while self._running:
            result = self.step()
            for _, error in result.failures:
                raise error
            for output in result.outputs:
                if output.beam_index in beams:
                    beams[output.beam_index].join(output)
                else:
                    beams[output.beam_index] = output
        return [beams[index] for index in sorted(beams)]

    def _submit(self, request: Request) -> None:
        if not self._running:
            self._heard_at = time.monotonic()
        try:
            running = self._loop.run_until_complete(self._begin(request))
        except (ValueError, Rejection) as error:
            raise _rejected(request, error) from error
        except Exception as error:
            raise EngineDiedError(
                f"The TensorRT-LLM engine takes no requests: {_first_line(error)}"
            ) from error
        self._running[request.id] = running

    async def _begin(self, request: Request) -> _Running:
        # In a coroutine, since the library looks for the loop that its results will be awaited in.
        result = self._llm.generate_async(
            request.prompt_token_ids,
            sampling_params=sampling_params(request),
            # Beams can change until the search ends: nothing of them is worth sending before.
            streaming=request.beam_width == 1,
        )
        running = _Running(request, result)
        running.follower = asyncio.create_task(self._follow(running))
        return running

    async def _follow(self, running: _Running) -> None:
        """Notes what a request produces, response by response, until it has ended."""
        request = running.request
        try:
            async for result in running.result:
                self._heard_at = time.monotonic()
                if not running.cancelled:
                    self._note(running, result)
                    self._arrived.set()
        except Rejection as error:
            if not running.cancelled:
                self._result.failures.append((request.id, _rejected(request, error)))
        except Exception as error:
            self._death = EngineDiedError(f"The TensorRT-LLM engine died while serving: {_first_line(error)}")
            self._death.__cause__ = error
        del self._running[request.id]
        self._arrived.set()

    def _note(self, running: _Running, result: Any) -> None:
        request = running.request
        if request.beam_width > 1:
            outputs = beam_outputs(request, result) if result.finished else []
        else:
            outputs = [streamed_output(request, result)]
        if result.finished and not all(output.finish_reason for output in outputs):
            error = RequestError(FailureKind.INTERNAL, "the engine ended the request without an answer")
            self._result.failures.append((request.id, error))
            return
        if outputs and not running.answered:
            running.answered = True
            outputs[0].cached_prompt_tokens = getattr(result, "cached_tokens", None)
        self._result.outputs += outputs

    async def _gather(self) -> None:
        """Lets the followers run until there is something to tell, for a few milliseconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WAIT):
                await self._arrived.wait()
        self._arrived.clear()
        if self._running and time.monotonic() - self._heard_at > _SILENCE:
            self._death = EngineDiedError(
                f"The TensorRT-LLM engine has not answered any of {len(self._running)} open requests for "
                f"{_SILENCE:.0f} s: a worker process has died or its GPU hangs."
            )


def _llm_arguments(model: Path, options: TensorRTLLMOptions) -> dict[str, Any]:
    """What the engine is constructed with; it refuses arguments that its version does not know."""
    arguments: dict[str, Any] = {
        # Its tokenizer is needed for one thing: xgrammar has to know the text of every token.
        "model": str(model),
        "tensor_parallel_size": options.tensor_parallel,
        "max_batch_size": options.max_batch_size,
        "max_num_tokens": options.max_num_tokens,
        "max_seq_len": options.context_length,
        "max_beam_width": options.max_beam_width,
        "kv_cache_config": KvCacheConfig(
            free_gpu_memory_fraction=options.kv_cache_share, dtype=options.kv_cache_precision
        ),
        "enable_chunked_prefill": options.chunked_prefill,
        "cuda_graph_config": None,
        "guided_decoding_backend": None if options.guided_decoding == "none" else options.guided_decoding,
    }
    if options.cuda_graphs:
        # Padding lets a batch between two recorded sizes use the larger one.
        arguments["cuda_graph_config"] = CudaGraphConfig(
            max_batch_size=options.max_batch_size, enable_padding=True
        )
    if options.sampler != "auto":
        arguments["sampler_type"] = options.sampler
    elif Version(tensorrt_llm.__version__) < _TORCH_SAMPLER_SUFFICES:
        arguments["sampler_type"] = "TRTLLMSampler"
    return arguments


def _rejected(request: Request, error: Exception) -> RequestError:
    """What a caller may read of a rejection. The engine's own words may quote the request."""
    log.warning("the engine rejected request %d: %s", request.id, places(error))
    if request.constraint is not None:
        parameter = CONSTRAINT_PARAMETER[request.constraint.kind]
        return RequestError(FailureKind.INVALID, "the engine cannot compile it", parameter)
    return RequestError(FailureKind.INTERNAL, "the engine did not take the request")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
