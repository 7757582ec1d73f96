"""The contract: self-contained, and the generated code is that of the file in the repository."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from mistralchat.v1 import chat_pb2 as pb

_ROOT = Path(__file__).parents[2]
_PROTO = _ROOT / "protos" / "mistralchat" / "v1" / "chat.proto"
_GENERATED = _ROOT / "client" / "python" / "mistralchat" / "v1"


def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(_ROOT / "protos" / "generate.py"), str(tmp_path)], check=True, timeout=60
    )
    fresh = {path.name: path.read_bytes() for path in (tmp_path / "mistralchat" / "v1").iterdir()}
    kept = {path.name: path.read_bytes() for path in _GENERATED.glob("chat_pb2*")}
    assert sorted(fresh) == sorted(kept)
    assert [name for name in fresh if fresh[name] != kept[name]] == []


def test_the_contract_imports_nothing_but_googles_own_types() -> None:
    imports = re.findall(
        r'^import (?:public |weak )?"(.+)";', _PROTO.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert imports
    assert [name for name in imports if not name.startswith("google/protobuf/")] == []


def test_every_field_with_a_default_can_be_unset() -> None:
    fields = [*pb.ChatRequest.DESCRIPTOR.fields, *pb.StreamOptions.DESCRIPTOR.fields]
    assert [field.name for field in fields if not (field.is_repeated or field.has_presence)] == []


#: As documented for the system that this one follows, and as promised to callers since.
_NUMBERS = {
    "messages": 1, "max_tokens": 2, "beam_width": 3, "bad_words_list": 4, "stop_words_list": 5,
    "repetition_penalty": 6, "max_completion_tokens": 7, "temperature": 8, "top_p": 9, "top_k": 10,
    "min_p": 11, "presence_penalty": 12, "frequency_penalty": 13, "seed": 14, "min_tokens": 15,
    "logprobs": 16, "top_logprobs": 17, "response_format": 18, "stream_options": 19,
}  # fmt: skip


def test_the_fields_of_a_request_keep_their_numbers() -> None:
    fields = {field.name: field.number for field in pb.ChatRequest.DESCRIPTOR.fields}
    assert {name: fields.get(name) for name in _NUMBERS} == _NUMBERS


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("max_tokens", FieldDescriptor.TYPE_INT32),
        ("beam_width", FieldDescriptor.TYPE_INT32),
        ("bad_words_list", FieldDescriptor.TYPE_STRING),
        ("stop_words_list", FieldDescriptor.TYPE_STRING),
        ("repetition_penalty", FieldDescriptor.TYPE_FLOAT),
    ],
)
def test_the_documented_parameters_keep_their_types(name: str, kind: int) -> None:
    assert pb.ChatRequest.DESCRIPTOR.fields_by_name[name].type == kind


def test_the_service_has_its_three_calls() -> None:
    service = pb.DESCRIPTOR.services_by_name["ChatService"]
    assert {method.name: method.server_streaming for method in service.methods} == {
        "Chat": True,
        "GetModel": False,
        "CountTokens": False,
    }
    assert not any(method.client_streaming for method in service.methods)


_LOAD = """
import sys
import google.protobuf
sys.path.insert(0, sys.argv[1])
import chat_pb2
message = chat_pb2.ChatRequest(max_tokens=5, messages=[chat_pb2.Message(content="Hello")])
assert chat_pb2.ChatRequest.FromString(message.SerializeToString()) == message
print(google.protobuf.__version__)
"""


@pytest.mark.parametrize(
    ("python", "generation"),
    [(Path(sys.executable), "6."), (_ROOT / ".cache" / "truss" / "bin" / "python", "7.")],
    ids=["6", "7"],
)
def test_the_generated_code_loads_on_both_generations_of_protobuf(python: Path, generation: str) -> None:
    if not python.exists():
        pytest.skip("the environment of truss, which has protobuf 7, is made by `make test`")
    command = [str(python), "-c", _LOAD, str(_GENERATED)]
    loaded = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert loaded.stdout.startswith(generation)
