"""Writes the first entries of the corpus: one valid message for every part of the contracts."""

import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import Message
from smg_grpc_proto.generated import trtllm_service_pb2 as tl

from mistralchat.v1 import chat_pb2 as pb

CORPUS = Path(__file__).parent / "corpus"
_TURNS = [
    pb.Message(role=pb.ROLE_SYSTEM, content="Be brief."),
    pb.Message(role=pb.ROLE_USER, content="What is <|im_end|> in {{ jinja }}? 日本 🎉"),
    pb.Message(role=pb.ROLE_ASSISTANT, content="A token."),
    pb.Message(role=pb.ROLE_USER, content="And?"),
]
_SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer", "minimum": 0}}, "required": ["a"]}'
_GRAMMAR = 'root ::= "yes" | "no"'
_REGEX = "[a-z]{2,5}"


def seeds() -> Iterator[tuple[str, str, Message]]:
    """Target, name, message."""
    yield "count_tokens", "conversation", pb.CountTokensRequest(messages=_TURNS)
    one = _TURNS[1:2]
    yield "chat", "plain", pb.ChatRequest(messages=one)
    yield "chat", "truncated", pb.ChatRequest(messages=_TURNS, max_tokens=5)
    yield "chat", "beams", pb.ChatRequest(messages=one, max_completion_tokens=9, beam_width=4)
    yield (
        "chat",
        "sampled",
        pb.ChatRequest(
            messages=_TURNS, max_completion_tokens=64, temperature=0.7, top_p=0.9, top_k=40, min_p=0.05,
            seed=7, min_tokens=3, repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=-0.5,
            logprobs=True, top_logprobs=3,
            stream_options=pb.StreamOptions(max_delay_ms=50, max_tokens_per_message=8),
        ),
    )  # fmt: skip
    yield (
        "chat",
        "words",
        pb.ChatRequest(
            messages=one,
            max_completion_tokens=9,
            bad_words_list=["bad", "badly"],
            stop_words_list=["\n\n", "end"],
        ),
    )
    formats = {"json_schema": _SCHEMA, "regex": _REGEX, "grammar": _GRAMMAR}
    for kind, source in formats.items():
        response_format = pb.ResponseFormat(**{kind: source})
        yield (
            "chat",
            kind,
            pb.ChatRequest(messages=one, max_completion_tokens=9, response_format=response_format),
        )
    prompt = tl.TokenizedInput(original_text="Hi", input_token_ids=[1, 2, 3])
    yield (
        "generate",
        "plain",
        tl.GenerateRequest(request_id="r", tokenized=prompt, max_tokens=5, streaming=True),
    )
    yield (
        "generate",
        "sampled",
        tl.GenerateRequest(
            request_id="r", tokenized=prompt, max_tokens=5, stop=["end"], stop_token_ids=[5], bad=["no"],
            sampling_config=tl.SamplingConfig(
                temperature=0.7, top_p=0.9, top_k=40, min_p=0.05, seed=7, min_tokens=3, repetition_penalty=1.1
            ),
            output_config=tl.OutputConfig(logprobs=2),
        ),
    )  # fmt: skip
    beams = tl.SamplingConfig(beam_width=4, num_return_sequences=2)
    yield "generate", "beams", tl.GenerateRequest(tokenized=prompt, max_tokens=5, sampling_config=beams)
    guides = tl.GuidedDecodingParams
    for name, kind_, guide in (
        ("json", guides.GUIDE_TYPE_JSON, ""),
        ("json_schema", guides.GUIDE_TYPE_JSON_SCHEMA, _SCHEMA),
        ("regex", guides.GUIDE_TYPE_REGEX, _REGEX),
        ("grammar", guides.GUIDE_TYPE_EBNF_GRAMMAR, _GRAMMAR),
    ):
        guided = guides(guide_type=kind_, guide=guide)
        yield "generate", name, tl.GenerateRequest(tokenized=prompt, max_tokens=5, guided_decoding=guided)


def main() -> int:
    """The command."""
    for target, name, message in seeds():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(message.SerializeToString())
    return 0


if __name__ == "__main__":
    sys.exit(main())
