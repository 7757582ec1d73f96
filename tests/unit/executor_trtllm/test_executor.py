"""The executor speaks to the library as its sources say. The stand-in proves nothing about the engine."""

import json
import os
import time
from collections.abc import Callable

import pytest

from mistralchat_server.executor.messages import (
    Constraint,
    ConstraintKind,
    FailureKind,
    FinishReason,
)
from mistralchat_server.executor.seam import EngineDiedError, RequestError, StepResult
from mistralchat_server.executor.trtllm import options

from .conftest import Engine

Start = Callable[..., Engine]
BOTH = pytest.mark.parametrize("version", ["1.2.1", "1.4.0rc1"])


@BOTH
def test_tokens_stream_and_add_up(start: Start, version: str) -> None:
    outputs = start(version=version).outputs()
    assert len(outputs) > 1
    assert sum(len(output.token_ids) for output in outputs) == 8
    assert [output.last for output in outputs] == [False] * (len(outputs) - 1) + [True]
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert outputs[0].cached_prompt_tokens == 0
    assert outputs[1].cached_prompt_tokens is None


@BOTH
def test_every_parameter_arrives(start: Start, version: str) -> None:
    engine = start(version=version)
    engine.outputs(
        stop_token_ids=(2, 5),
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=7,
        min_new_tokens=3,
        logprobs=True,
        top_logprobs=4,
    )
    params = engine.last.params
    assert params.end_id == 2
    assert params.stop_token_ids == [5]
    assert params.include_stop_str_in_output
    assert not params.detokenize
    assert params.max_tokens == 8
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.7, 0.9, 40, 0.1)
    assert params.repetition_penalty == 1.2
    assert (params.presence_penalty, params.frequency_penalty) == (0.5, -0.5)
    assert (params.seed, params.min_tokens, params.logprobs) == (7, 3, 4)
    assert engine.last.streaming


def test_a_greedy_request_says_nothing_of_sampling(start: Start) -> None:
    engine = start()
    engine.outputs()
    params = engine.last.params
    assert params.greedy
    assert params.seed is params.temperature is params.top_p is params.repetition_penalty is None


def test_without_a_seed_answers_differ(start: Start) -> None:
    # The library's own default is one seed for all.
    engine = start()
    assert engine.tokens(temperature=2.0) != engine.tokens(temperature=2.0)
    assert engine.tokens(temperature=2.0, seed=3) == engine.tokens(temperature=2.0, seed=3)


@pytest.mark.parametrize(
    ("kind", "source", "field"),
    [
        (ConstraintKind.JSON_SCHEMA, '{"type": "integer"}', "json"),
        (ConstraintKind.REGEX, "[0-9]+", "regex"),
        (ConstraintKind.GRAMMAR, "root ::= [0-9]+", "grammar"),
    ],
)
def test_response_format_is_guided_decoding(
    start: Start, kind: ConstraintKind, source: str, field: str
) -> None:
    engine = start()
    text = engine.text(constraint=Constraint(kind, (source,)), stop_token_ids=(2,))
    assert getattr(engine.last.params.guided_decoding, field) == source
    assert text.removesuffix("</s>").removeprefix("-").isdigit()


def test_bad_words_are_a_structural_tag(start: Start) -> None:
    engine = start()
    assert "two" in engine.text()
    text = engine.text(constraint=Constraint(ConstraintKind.EXCLUDED_STRINGS, ("two", "o")))
    params = engine.last.params
    assert "o" not in text
    assert params.bad is None
    assert json.loads(params.guided_decoding.structural_tag) == {
        "type": "structural_tag",
        "format": {"type": "any_text", "excludes": ["two", "o"]},
    }


def test_logprobs(start: Start) -> None:
    engine = start()
    outputs = engine.outputs(logprobs=True, top_logprobs=3)
    for output in outputs:
        assert len(output.logprobs) == len(output.top_logprobs) == len(output.token_ids)
        for chosen, value, likeliest in zip(
            output.token_ids, output.logprobs, output.top_logprobs, strict=True
        ):
            assert len(likeliest) == 3
            # Greedy: the chosen token is the likeliest.
            assert likeliest[0] == (chosen, value)
            assert likeliest == sorted(likeliest, key=lambda item: item[1], reverse=True)
    plain = engine.outputs(logprobs=True)
    assert engine.last.params.logprobs == 1
    assert all(output.logprobs and not output.top_logprobs for output in plain)


def test_beams_come_at_the_end_best_first(start: Start) -> None:
    engine = start(version="1.4.0rc1", max_beam_width=3)
    outputs = engine.outputs(beam_width=3, logprobs=True)
    assert [output.beam_index for output in outputs] == [0, 1, 2]
    assert [output.last for output in outputs] == [False, False, True]
    scores = [sum(output.logprobs) for output in outputs]
    assert scores == sorted(scores, reverse=True)
    params = engine.last.params
    assert params.use_beam_search
    assert params.best_of == params.n == 3
    assert not engine.last.streaming


def test_cancelling_aborts_and_frees_the_slot(start: Start) -> None:
    engine = start()
    engine.submit(max_new_tokens=100_000)
    engine.until(lambda result: result.outputs)
    engine.executor.cancel(1)
    assert engine.last.aborted
    engine.until(lambda result: engine.executor.active == 0)
    assert not engine.executor.step().outputs
    engine.executor.cancel(1)
    assert len(engine.tokens(id=2)) == 8


def test_one_step_tells_of_all_requests(start: Start) -> None:
    engine = start()
    for request_id in (1, 2, 3):
        engine.submit(id=request_id, max_new_tokens=50)
    assert engine.executor.active == 3
    seen: set[int] = set()
    together = 0

    def note(result: StepResult) -> bool:
        nonlocal together
        ids = {output.request_id for output in result.outputs}
        seen.update(ids)
        together = max(together, len(ids))
        return not engine.executor.active

    engine.until(note)
    assert seen == {1, 2, 3}
    assert together > 1


def test_a_step_waits_a_little_for_tokens_and_no_longer(start: Start) -> None:
    engine = start()
    engine.submit(max_new_tokens=100_000)
    engine.until(lambda result: result.outputs)
    engine.llm.die(None)
    engine.until(lambda result: not result.outputs)
    since = time.monotonic()
    for _ in range(10):
        assert not engine.executor.step().outputs
    assert 0.03 < time.monotonic() - since < 1


def test_a_step_without_requests_returns_soon(start: Start) -> None:
    engine = start()
    assert not engine.executor.step().outputs


def test_a_constraint_that_does_not_compile_is_the_callers(start: Start) -> None:
    engine = start()
    error = engine.failure(constraint=Constraint(ConstraintKind.REGEX, ("[",)))
    assert (error.kind, error.parameter) == (FailureKind.INVALID, "response_format.regex")
    assert "xgrammar/cpp" not in str(error)
    assert engine.executor.active == 0
    assert len(engine.tokens(id=2)) == 8


def test_what_the_engine_rejects_tells_nothing_of_its_inside(start: Start) -> None:
    engine = start()
    error = engine.failure(prompt_token_ids=[3] * 5_000)
    assert error.kind is FailureKind.INTERNAL
    assert "max_seq_len" not in str(error)
    assert len(engine.tokens(id=2)) == 8


def test_a_dying_worker_ends_the_executor(start: Start) -> None:
    engine = start()
    engine.submit(max_new_tokens=100_000)
    engine.llm.die(RuntimeError("CUDA error: an illegal memory access was encountered\nin kernel.cu:42"))
    with pytest.raises(EngineDiedError, match="died while serving: CUDA error: an illegal memory access"):
        engine.until(lambda result: False)


def test_a_dead_worker_is_noticed_by_the_next_request(start: Start) -> None:
    engine = start()
    engine.llm.die(RuntimeError("the worker is gone"))
    with pytest.raises(EngineDiedError, match="takes no requests: the worker is gone"):
        engine.submit()


def test_silence_is_death(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start()
    from mistralchat_server.executor.trtllm import executor

    monkeypatch.setattr(executor, "_SILENCE", 0.2)
    engine.submit(max_new_tokens=100_000)
    engine.llm.die(None)
    with pytest.raises(EngineDiedError, match="has not answered any of 1 open requests"):
        engine.until(lambda result: False)


@pytest.mark.parametrize(
    ("version", "sampler"),
    [("1.2.1", "TRTLLMSampler"), ("1.3.0rc23", "TRTLLMSampler"), ("1.3.0", "auto"), ("1.4.0rc1", "auto")],
)
def test_the_sampler_is_chosen_by_version(start: Start, version: str, sampler: str) -> None:
    assert start(version=version).llm.args.sampler_type == sampler


def test_the_engine_is_set_up_as_the_settings_say(start: Start) -> None:
    args = start(
        max_batch_size=16,
        max_num_tokens=512,
        context_length=1_024,
        kv_cache_share=0.5,
        chunked_prefill=True,
        cuda_graphs=False,
    ).llm.args
    assert (args.max_batch_size, args.max_num_tokens, args.max_seq_len) == (16, 512, 1_024)
    assert args.kv_cache_config.free_gpu_memory_fraction == 0.5
    assert args.enable_chunked_prefill
    assert args.cuda_graph_config is None
    # xgrammar has to know the text of every token.
    assert (args.guided_decoding_backend, args.skip_tokenizer_init) == ("xgrammar", False)


def test_it_does_not_phone_home_unless_asked(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    start()
    assert os.environ["TRTLLM_NO_USAGE_STATS"] == "1"
    assert os.environ["TLLM_WORKER_USE_SINGLE_PROCESS"] == "1"
    monkeypatch.setenv("TRTLLM_NO_USAGE_STATS", "0")
    start()
    assert os.environ["TRTLLM_NO_USAGE_STATS"] == "0"


def test_description(start: Start) -> None:
    description = start(max_batch_size=12).executor.describe()
    assert description.executor == "trtllm"
    assert description.precision == options.TensorRTLLMOptions().precision
    assert (description.context_length, description.max_batch_size) == (2_048, 12)


def test_a_width_that_the_engine_does_not_serve_is_refused(start: Start) -> None:
    engine = start(max_beam_width=4, allow_unsupported=("beam_width",))
    with pytest.raises(RequestError, match="a width of 4") as refusal:
        engine.submit()
    assert (refusal.value.kind, refusal.value.parameter) == (FailureKind.UNSUPPORTED, "beam_width")
    assert len(engine.outputs(beam_width=4)) == 4
