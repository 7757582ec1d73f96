"""The executor on OpenVINO GenAI's continuous batching pipeline."""

import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from openvino_genai import GenerationFinishReason, GenerationStatus
from openvino_genai.py_openvino_genai import GenerationHandle, GenerationOutput

from ...places import places
from ..messages import (
    CONSTRAINT_PARAMETER,
    Constraint,
    Description,
    FailureKind,
    FinishReason,
    Output,
    Request,
)
from ..seam import EngineDiedError, RequestError, StartError, StepResult
from .constraints import structured_output
from .model import ModelFiles
from .options import OpenVINOOptions
from .pipeline import load_pipeline
from .rehearsal import MOST_COMPILED, Rehearsal, Verdict
from .scratch import ScratchPipeline

log = logging.getLogger(__name__)

#: Seconds that a step waits when nothing can run before a constraint has been compiled.
_IDLE = 0.002
_FINISH = {
    GenerationFinishReason.STOP: FinishReason.STOP,
    GenerationFinishReason.LENGTH: FinishReason.LENGTH,
}
#: The engine accepts all of these together with beam search; it refuses the penalties and ignores the
#: others (measured on 2026.4.1).
_NOT_WITH_BEAMS = dict.fromkeys(
    (
        "bad_words_list",
        "response_format",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "min_tokens",
    ),
    "OpenVINO GenAI's beam search does not take it into account",
)


@dataclass(slots=True)
class _Running:
    request: Request
    handle: GenerationHandle
    #: It has its first token.
    sampled: bool = False


class OpenVINOExecutor:
    """Serves what the engine's `step` can batch; constrained requests are first compiled elsewhere.

    A constrained request passes three stages, in the order of arrival: a rehearsal in a process that
    may break, compilation in a thread that shares the compiled form with the engine, the engine. Once the
    engine holds too many compiled forms, it is loaded anew as soon as nothing runs.
    """

    def __init__(self, model: Path, options: OpenVINOOptions) -> None:
        files = ModelFiles.inspect(model)
        self._options = options
        self._files = files
        self._running: dict[int, _Running] = {}
        self._waiting: deque[Request] = deque()
        self._cancelled = 0
        self._constrained: deque[Request] = deque()
        self._ready: set[Constraint] = set()
        self._compilation: _Compilation | None = None
        #: Another constraint waits for room among the compiled ones. Nothing new runs before there is some.
        self._full = False
        try:
            self._load()
        except RuntimeError as error:
            raise StartError(
                f"The CPU engine could not load {files.path}: {str(error).strip().splitlines()[-1]}"
            ) from error
        self._rehearsal = Rehearsal(files.path, files.vocab_size, options.max_constraint_seconds)

    def describe(self) -> Description:
        return Description(
            executor="openvino",
            precision=self._files.precision,
            context_length=self._files.context_length,
            max_beam_width=self._options.max_beam_width,
            max_batch_size=self._options.max_batch_size,
            unsupported={"top_logprobs": "OpenVINO GenAI gives the chosen token's log-probability only"},
            unsupported_with_beam_search=_NOT_WITH_BEAMS,
        )

    @property
    def active(self) -> int:
        return len(self._running) + self._cancelled + len(self._waiting) + len(self._constrained)

    def submit(self, request: Request) -> None:
        queue = self._waiting if request.constraint is None else self._constrained
        queue.append(request)

    def cancel(self, request_id: int) -> None:
        if (running := self._running.pop(request_id, None)) is not None:
            running.handle.cancel()
            self._cancelled += 1
        else:
            self._waiting = deque(r for r in self._waiting if r.id != request_id)
            self._constrained = deque(r for r in self._constrained if r.id != request_id)

    def step(self) -> StepResult:
        result = StepResult()
        if self._constrained:
            self._advance_constrained(result)
        if self._full and not self._pipeline.has_non_finished_requests():
            self._reload()
        while self._waiting and not self._full and len(self._running) < self._options.max_batch_size:
            self._admit(self._waiting.popleft(), result)
        if not self._pipeline.has_non_finished_requests():
            if self._constrained:
                time.sleep(_IDLE)
            return result
        self._pipeline.step()
        # The engine frees a cancelled request's slot before it computes the step.
        self._cancelled = 0
        self._collect(result)
        return result

    def close(self) -> None:
        for running in self._running.values():
            running.handle.cancel()
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        self._rehearsal.close()

    def _load(self) -> None:
        self._pipeline = load_pipeline(self._files.path, self._options)
        self._scratch = ScratchPipeline(self._pipeline.get_tokenizer(), self._files.vocab_size)
        self._warm_up()

    def _reload(self) -> None:
        """Empties the cache of compiled constraints, for which the engine knows no other way."""
        log.info("the engine holds %d compiled constraints: loading it anew", len(self._ready))
        # The old one first, for there may be no room for both.
        del self._pipeline, self._scratch
        try:
            self._load()
        except RuntimeError as error:
            raise EngineDiedError("The CPU engine could not be loaded anew.") from error
        self._ready.clear()
        self._full = False
        # What was about to run has to be compiled again.
        self._constrained.extendleft(r for r in reversed(self._waiting) if r.constraint is not None)
        self._waiting = deque(r for r in self._waiting if r.constraint is None)

    def _warm_up(self) -> None:
        """The first step allocates and compiles for half a second: no caller should wait for that."""
        prompt = openvino.Tensor(np.zeros((1, 32), np.int64))
        config = openvino_genai.GenerationConfig(max_new_tokens=2)
        self._pipeline.generate([prompt], [config])

    def _admit(self, request: Request, result: StepResult) -> None:
        prompt = openvino.Tensor(np.array([request.prompt_token_ids], np.int64))
        try:
            handle = self._pipeline.add_request(request.id, prompt, _generation_config(request))
        except RuntimeError as error:
            log.error("the engine refused request %d: %s", request.id, places(error))
            failure = RequestError(FailureKind.INTERNAL, "the engine did not take the request")
            result.failures.append((request.id, failure))
        else:
            self._running[request.id] = _Running(request, handle)
            result.started.append((request.id, time.monotonic()))

    def _advance_constrained(self, result: StepResult) -> None:
        """Moves requests that wait for their constraint on, oldest first."""
        if self._compilation is not None and self._compilation.finished:
            if self._compilation.failed:
                # Rehearsed well and yet failed: nothing of that kind should reach the real pipeline. Whoever
                # asked for it may have left meanwhile.
                if self._constrained[0].constraint == self._compilation.constraint:
                    self._fail_first(result, FailureKind.INTERNAL, "the constraint could not be compiled")
                self._scratch = ScratchPipeline(self._pipeline.get_tokenizer(), self._files.vocab_size)
            else:
                self._ready.add(self._compilation.constraint)
            self._compilation = None
        while self._constrained and self._compilation is None:
            request = self._constrained[0]
            constraint = request.constraint
            assert constraint is not None
            if constraint in self._ready:
                self._waiting.append(self._constrained.popleft())
                continue
            match self._rehearsal.verdict(constraint):
                case None:
                    return
                case Verdict.GOOD:
                    self._full = len(self._ready) >= MOST_COMPILED
                    if self._full or self._sampling_begins():
                        return
                    self._compilation = _Compilation(self._scratch, constraint)
                case Verdict.TOO_EXPENSIVE:
                    self._fail_first(
                        result, FailureKind.INVALID, "it takes too long to compile: make it smaller"
                    )
                case Verdict.UNKNOWN:
                    self._fail_first(
                        result, FailureKind.INTERNAL, "constraints cannot be compiled at present"
                    )
                case str(reason):
                    self._fail_first(result, FailureKind.INVALID, reason)

    def _sampling_begins(self) -> bool:
        """Whether a constrained request awaits its first token.

        The engine notes compilation times in a list without a lock, when a thread has compiled and when
        a constrained request is first sampled; the two must not coincide.
        """
        return any(request.constraint is not None for request in self._waiting) or any(
            running.request.constraint is not None and not running.sampled
            for running in self._running.values()
        )

    def _fail_first(self, result: StepResult, kind: FailureKind, message: str) -> None:
        request = self._constrained.popleft()
        assert request.constraint is not None
        error = RequestError(kind, message, CONSTRAINT_PARAMETER[request.constraint.kind])
        result.failures.append((request.id, error))

    def _collect(self, result: StepResult) -> None:
        ended = []
        for request_id, running in self._running.items():
            handle = running.handle
            if handle.can_read():
                running.sampled = True
                if self._read(running, result.outputs):
                    ended.append(request_id)
            elif handle.get_status() == GenerationStatus.IGNORED:
                ended.append(request_id)
                message = "the conversation does not fit the KV cache of this server"
                error = RequestError(FailureKind.INVALID, message, "messages")
                result.failures.append((request_id, error))
        for request_id in ended:
            del self._running[request_id]

    def _read(self, running: _Running, outputs: list[Output]) -> bool:
        """Appends what a request produced; true if it has ended."""
        request = running.request
        generated = running.handle.read().values()
        if request.beam_width == 1:
            (sequence,) = generated
            finish = _FINISH.get(sequence.finish_reason)
            outputs.append(_output(request, sequence, 0, last=finish is not None))
            return finish is not None
        beams = sorted(generated, key=lambda sequence: sequence.score, reverse=True)
        for index, sequence in enumerate(beams):
            outputs.append(_output(request, sequence, index, last=index == len(beams) - 1))
        return True


class _Compilation:
    """Compiles one constraint in a thread of the lowest priority, so that steps hardly slow down."""

    def __init__(self, scratch: ScratchPipeline, constraint: Constraint) -> None:
        self.constraint = constraint
        self.failed = False
        self._scratch = scratch
        self._thread = threading.Thread(target=self._run, name="constraint-compilation", daemon=True)
        self._thread.start()

    @property
    def finished(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        # On Linux a thread has a priority of its own, which the compiler's threads inherit.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        config = openvino_genai.GenerationConfig(
            max_new_tokens=1, structured_output_config=structured_output(self.constraint)
        )
        try:
            self._scratch.compile(config)
        except RuntimeError:
            self.failed = True


def _generation_config(request: Request) -> openvino_genai.GenerationConfig:
    config = openvino_genai.GenerationConfig(
        max_new_tokens=request.max_new_tokens,
        min_new_tokens=request.min_new_tokens,
        stop_token_ids=set(request.stop_token_ids),
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logprobs=int(request.logprobs),
    )
    if request.stop_token_ids:
        # `min_new_tokens` holds this one back; the engine knows no other way to hold back several.
        config.eos_token_id = request.stop_token_ids[0]
    if request.beam_width > 1:
        config.num_beams = config.num_return_sequences = request.beam_width
    if request.temperature > 0:
        config.do_sample = True
        config.temperature = request.temperature
        config.top_p = request.top_p
        config.min_p = request.min_p
        if request.top_k:
            config.top_k = request.top_k
        config.rng_seed = int.from_bytes(os.urandom(7)) if request.seed is None else request.seed
    if request.constraint is not None:
        config.structured_output_config = structured_output(request.constraint)
    return config


def _output(request: Request, sequence: GenerationOutput, beam_index: int, *, last: bool) -> Output:
    return Output(
        request.id,
        sequence.generated_ids,
        logprobs=list(sequence.generated_log_probs) if request.logprobs else [],
        beam_index=beam_index,
        finish_reason=_FINISH.get(sequence.finish_reason),
        last=last,
    )
