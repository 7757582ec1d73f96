"""Translates a request into TensorRT-LLM's sampling parameters, and its completions into outputs."""

import os
from typing import Any

from tensorrt_llm import SamplingParams

from ..messages import FinishReason, Output, Request
from .constraints import guided_decoding

_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
#: No token ends the answer: what the engine takes for that.
_NO_END = -1


def sampling_params(request: Request) -> SamplingParams:
    """The engine's form of `request`. Raises ValueError for what the engine refuses by itself."""
    # The first is what `min_tokens` holds back. Given, it also spares the engine a look at its tokenizer.
    end, *further = request.stop_token_ids or (_NO_END,)
    parameters: dict[str, Any] = {
        "end_id": end,
        "pad_id": max(end, 0),
        "max_tokens": request.max_new_tokens,
        # The tokens are wanted as they were generated; the front end knows which end an answer.
        "include_stop_str_in_output": True,
        "detokenize": False,
    }
    if further:
        parameters["stop_token_ids"] = further
    if request.beam_width > 1:
        parameters |= {"use_beam_search": True, "best_of": request.beam_width, "n": request.beam_width}
    if request.temperature > 0:
        # All are given, since what the engine takes for one that is not differs between its samplers.
        parameters |= {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
        # The engine's own default is the same seed for every request.
        parameters["seed"] = int.from_bytes(os.urandom(7)) if request.seed is None else request.seed
        if request.min_p > 0:
            parameters["min_p"] = request.min_p
    if request.repetition_penalty != 1:
        parameters["repetition_penalty"] = request.repetition_penalty
    if request.presence_penalty:
        parameters["presence_penalty"] = request.presence_penalty
    if request.frequency_penalty:
        parameters["frequency_penalty"] = request.frequency_penalty
    if request.min_new_tokens:
        parameters["min_tokens"] = request.min_new_tokens
    if request.logprobs:
        # At least 1: before 1.3, 0 asks for none. The chosen token's own is always among them.
        parameters["logprobs"] = max(1, request.top_logprobs)
    if request.constraint is not None:
        parameters["guided_decoding"] = guided_decoding(request.constraint)
    return SamplingParams(**parameters)


def streamed_output(request: Request, result: Any) -> Output:
    """What the latest response added to the only sequence of a request."""
    (completion,) = result.outputs
    return _output(
        request, completion, completion.token_ids_diff, completion.logprobs_diff, last=result.finished
    )


def beam_outputs(request: Request, result: Any) -> list[Output]:
    """The beams of a search that has ended, best first as the engine has them."""
    outputs = []
    for index, completion in enumerate(result.outputs):
        last = index == len(result.outputs) - 1
        output = _output(request, completion, completion.token_ids, completion.logprobs, last=last)
        output.beam_index = index
        _end_at_stop_token(request, output)
        outputs.append(output)
    return outputs


def _output(request: Request, completion: Any, token_ids: list[int], logprobs: Any, *, last: bool) -> Output:
    output = Output(
        request.id, list(token_ids), finish_reason=_FINISH.get(completion.finish_reason), last=last
    )
    if request.logprobs:
        # A sampler that knows the chosen token's only gives plain numbers.
        for token_id, position in zip(output.token_ids, logprobs or (), strict=False):
            known = position if isinstance(position, dict) else {token_id: position}
            values = {key: getattr(value, "logprob", value) for key, value in known.items()}
            output.logprobs.append(values[token_id])
            if request.top_logprobs:
                ranked = sorted(values.items(), key=lambda item: item[1], reverse=True)
                output.top_logprobs.append(ranked[: request.top_logprobs])
    return output


def _end_at_stop_token(request: Request, output: Output) -> None:
    """Beams are padded to the length of the longest."""
    for position, token_id in enumerate(output.token_ids):
        if token_id in request.stop_token_ids:
            end = position + 1
            del output.token_ids[end:], output.logprobs[end:], output.top_logprobs[end:]
            output.finish_reason = FinishReason.STOP
            return
