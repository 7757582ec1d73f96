"""Addresses of workers, and the tokenizer that they hand out."""

import io
import os
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from smg_grpc_proto.generated import common_pb2, trtllm_service_pb2_grpc

from mistralchat_server.gateway import smg
from mistralchat_server.gateway.workers import WorkerError, first_ready, host_and_port, save_tokenizer
from mistralchat_server.text.tokenizer import load_tokenizer

from ...conftest import Server


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("worker-0.workers.ns.svc:1", ("worker-0.workers.ns.svc", 1)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address",
    [
        *("", ":", "host", "host:", ":80", "::1:80", "host:x", "host:-1", "host:+1", "host:٣"),
        *("host:0", "host:65536", "grpc://host:80", "user@host:80", "a b:80", "[::1]", "[]:80", "h:80/path"),
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError, match=r"must be HOST:PORT|port that does not exist"):
        host_and_port(address)


def test_flags_of_the_caller_come_last() -> None:
    command = smg.command("127.0.0.1:80", ["a:1", "[::1]:2"], Path("/files"), ["--log-level", "info"])
    assert command[-2:] == ["--log-level", "info"]
    workers = command.index("--worker-urls")
    assert command[workers + 1 : workers + 4] == ["grpc://a:1", "grpc://[::1]:2", "--model-path"]


async def test_a_worker_that_is_ready_is_found_beside_one_that_is_not(replay_server: Server) -> None:
    said: list[str] = []
    found = await first_ready(["127.0.0.1:1", replay_server.address], said.append)
    assert found == replay_server.address
    assert set(said) == {"worker 127.0.0.1:1 cannot be reached", f"worker {found} is ready"}


async def test_the_tokenizer_is_saved(replay_server: Server, tmp_path: Path) -> None:
    await save_tokenizer(replay_server.address, tmp_path)
    assert load_tokenizer(tmp_path).decode(list(range(3))) is not None


class _Sender(trtllm_service_pb2_grpc.TrtllmServiceServicer):  # type: ignore[misc]
    def __init__(self, archive: bytes) -> None:
        self._archive = archive

    def GetTokenizer(self, request: Any, context: Any) -> Iterator[common_pb2.GetTokenizerChunk]:  # noqa: N802
        yield common_pb2.GetTokenizerChunk(data=self._archive)


def _zip(name: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(name, "x")
    return archive.getvalue()


@pytest.mark.parametrize("archive", [b"no archive", _zip("../outside"), _zip("/outside"), _zip("in/folder")])
async def test_an_archive_that_cannot_be_used(archive: bytes, tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    trtllm_service_pb2_grpc.add_TrtllmServiceServicer_to_server(_Sender(archive), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    folder = tmp_path / "folder"
    folder.mkdir()
    try:
        with pytest.raises(WorkerError, match="tokenizer of worker"):
            await save_tokenizer(f"127.0.0.1:{port}", folder)
    finally:
        server.stop(0).wait()
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(folder) == []
