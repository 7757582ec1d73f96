"""The archive from which a gateway builds the tokenizer."""

import io
import json
import zipfile
from pathlib import Path

import pytest

from mistralchat_server.rpc.trtllm.tokenizer_files import tokenizer_archive
from mistralchat_server.text.byte_tokenizer import byte_tokenizer
from mistralchat_server.text.tokenizer import Turn, load_tokenizer

_TURNS = [Turn("user", "Hällo, wörld! 日本"), Turn("assistant", "Yes."), Turn("user", "No?")]


def _unpack(archive: bytes, folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        file.extractall(folder)
    return folder


@pytest.mark.parametrize("gguf", [False, True])
def test_the_files_are_the_tokenizer(gguf: bool, model_path: Path, tmp_path: Path) -> None:
    original = load_tokenizer(model_path) if gguf else byte_tokenizer()
    folder = _unpack(tokenizer_archive(model_path if gguf else None, original), tmp_path)
    rebuilt = load_tokenizer(folder)
    assert rebuilt.prompt(_TURNS) == original.prompt(_TURNS)
    assert set(rebuilt.stop_token_ids) == set(original.stop_token_ids)
    assert rebuilt.context_length == original.context_length


def test_a_directory_gives_its_own_files_and_no_weights(tmp_path: Path) -> None:
    model = _unpack(tokenizer_archive(None, byte_tokenizer()), tmp_path / "model")
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 256}))
    (model / "openvino_model.bin").write_bytes(b"weights")
    again = _unpack(tokenizer_archive(model, load_tokenizer(model)), tmp_path / "again")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in model.iterdir() if path.suffix != ".bin"
    }


def test_the_same_files_are_the_same_archive() -> None:
    assert tokenizer_archive(None, byte_tokenizer()) == tokenizer_archive(None, byte_tokenizer())
