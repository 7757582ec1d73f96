"""Generates the Python code of the contract: `make protos`, or `generate.py DIR` to write elsewhere.

grpcio-tools is pinned to a release whose code loads on protobuf 6.31 to 7.x.
"""

import os
import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).parent
PACKAGE_ROOT = PROTOS.parent / "client" / "python"
CONTRACT = "mistralchat/v1/chat.proto"


def generate(target: Path) -> None:
    """Writes `mistralchat/v1/chat_pb2*.py` and their `.pyi` below `target`."""
    # The mypy plugin lies beside the interpreter, which need not be on PATH.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    failed = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_grpc_out=quiet:{target}",
            CONTRACT,
        ]
    )
    if failed:
        raise SystemExit(failed)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE_ROOT)
