"""The servers behind a gateway: their addresses, whether they are ready, the tokenizer that they hand out."""

import asyncio
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import grpc
from smg_grpc_proto.generated import common_pb2, trtllm_service_pb2, trtllm_service_pb2_grpc

#: Seconds after which a worker that does not answer cannot be reached.
_ANSWER = 2.0
#: Seconds until a worker that is not ready is asked again.
_AGAIN = 1.0
_READY = "is ready"


class WorkerError(Exception):
    """A worker that does not do its part; one sentence for the operator."""


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of HOST:PORT. Raises `ValueError` with what an address looks like."""
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_name = bare and not any(character in bare for character in "/[]@ ")
    if not is_name or (":" in host and bare == host) or not (port.isascii() and port.isdigit()):
        raise ValueError(f"must be HOST:PORT, for example 127.0.0.1:50051, not {address!r}")
    if not 0 < int(port) < 65_536:
        raise ValueError(f"has a port that does not exist: {address!r}")
    return bare, int(port)


async def first_ready(workers: Sequence[str], say: Callable[[str], None]) -> str:
    """Waits until one of the workers takes calls and returns it; says what becomes of each.

    Raises `WorkerError` if one of them is something else.
    """
    said: dict[str, str] = {}
    while True:
        states = await asyncio.gather(*map(_state, workers))
        for worker, state in zip(workers, states, strict=True):
            if said.get(worker) != state:
                say(f"worker {worker} {state}")
                said[worker] = state
        if _READY in states:
            return workers[states.index(_READY)]
        await asyncio.sleep(_AGAIN)


async def save_tokenizer(worker: str, folder: Path) -> None:
    """Writes the tokenizer's files of a worker. Raises `WorkerError`."""
    archive = bytearray()
    try:
        async with grpc.aio.insecure_channel(worker) as channel:
            stub = trtllm_service_pb2_grpc.TrtllmServiceStub(channel)
            async for chunk in stub.GetTokenizer(common_pb2.GetTokenizerRequest()):
                archive += chunk.data
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            for name in file.namelist():
                if PurePosixPath(name).name != name:
                    raise WorkerError(f"The tokenizer of worker {worker} has a file in a folder: {name}.")
                (folder / name).write_bytes(file.read(name))
    except grpc.aio.AioRpcError as error:
        raise WorkerError(f"Worker {worker} does not hand out its tokenizer: {error.details()}.") from error
    except zipfile.BadZipFile as error:
        raise WorkerError(f"The tokenizer of worker {worker} is no zip archive.") from error


async def _state(worker: str) -> str:
    async with grpc.aio.insecure_channel(worker) as channel:
        stub = trtllm_service_pb2_grpc.TrtllmServiceStub(channel)
        try:
            await stub.HealthCheck(trtllm_service_pb2.HealthCheckRequest(), timeout=_ANSWER)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise WorkerError(f"Worker {worker} is no mistralchat server.") from error
            # A server that answers tells why it takes no calls; gRPC itself tells how connecting failed.
            if error.code() is grpc.StatusCode.UNAVAILABLE and error.trailing_metadata():
                return f"is not ready: {error.details()}"
            return "cannot be reached"
    return _READY
