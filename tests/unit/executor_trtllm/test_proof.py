"""The start-up proof catches what a version accepts and ignores. The stand-in only plays such versions."""

import logging
from collections.abc import Callable

import pytest

from mistralchat_server.executor.seam import StartError

from .conftest import Engine

Start = Callable[..., Engine]


@pytest.mark.parametrize("version", ["1.2.1", "1.4.0rc1"])
def test_what_is_honoured_is_not_refused(start: Start, version: str) -> None:
    assert start(version=version).executor.describe().unsupported == {}


def test_ignored_penalties_keep_it_from_starting(start: Start) -> None:
    with pytest.raises(
        StartError, match=r"repetition_penalty: TensorRT-LLM accepts it and ignores it"
    ) as error:
        start(sampler="TorchSampler")
    assert "trtllm.sampler TRTLLMSampler" in str(error.value)
    assert "trtllm.allow_unsupported: repetition_penalty" in str(error.value)


def test_the_operator_may_allow_it(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        engine = start(sampler="TorchSampler", allow_unsupported=("repetition_penalty",))
    assert set(engine.executor.describe().unsupported) == {
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
    }
    assert "frequency_penalty will be refused" in caplog.text


def test_what_is_not_documented_may_be_missing(start: Start) -> None:
    engine = start(guided_decoding="none", allow_unsupported=("bad_words_list",))
    assert set(engine.executor.describe().unsupported) == {"bad_words_list", "response_format"}


def test_ignored_bad_words_keep_it_from_starting(start: Start) -> None:
    with pytest.raises(StartError, match="bad_words_list: TensorRT-LLM accepts it and ignores it"):
        start(IGNORES="guided")


@pytest.mark.parametrize(
    ("field", "missing"),
    [
        ("temperature", {"temperature", "seed"}),
        ("seed", {"seed"}),
        ("top_k", {"top_k"}),
        ("top_p", {"top_p"}),
        ("min_p", {"min_p"}),
        ("min_tokens", {"min_tokens"}),
        ("logprobs", {"logprobs", "top_logprobs"}),
        ("presence_penalty", {"presence_penalty"}),
        ("frequency_penalty", {"frequency_penalty"}),
    ],
)
def test_whatever_is_ignored_is_found(start: Start, field: str, missing: set[str]) -> None:
    assert set(start(IGNORES=field).executor.describe().unsupported) == missing


def test_penalties_that_a_version_ignores_in_every_mode(start: Start) -> None:
    with pytest.raises(StartError, match="repetition_penalty"):
        start(version="1.4.0rc1", IGNORES="penalties")


def test_one_width_only_keeps_it_from_starting(start: Start) -> None:
    with pytest.raises(
        StartError, match=r"beam_width: of the widths up to trtllm.max_beam_width 2 it serves 2 only"
    ):
        start(max_beam_width=2)


def test_with_beams_each_parameter_is_proven_too(start: Start) -> None:
    description = start(version="1.4.0rc1", max_beam_width=2).executor.describe()
    assert description.unsupported == {}
    # The stand-in's beam search knows the end of an answer by the first beam's.
    assert "repetition_penalty" not in description.unsupported_with_beam_search
