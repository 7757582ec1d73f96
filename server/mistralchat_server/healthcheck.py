"""A container's health check: asks the server at HOST:PORT over gRPC whether it is serving."""

import argparse
import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mistralchat._connection import channel_credentials, channel_options
from mistralchat.cli import _connection_options
from mistralchat.tls import TLS

_SECONDS = 4.0


def main(argv: list[str]) -> int:
    """Returns 0 if the server is serving, else 1."""
    parser = argparse.ArgumentParser(prog="python -m mistralchat_server.healthcheck", description=__doc__)
    parser.add_argument("target", nargs="?", default="127.0.0.1:50051", metavar="HOST:PORT")
    _connection_options.add_access(parser)
    options = parser.parse_args(argv)
    try:
        channel = _channel(options.target, _connection_options.tls(options))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{options.target}: {error}\n")
        return 1
    with channel:
        # The stubs of the types describe no methods.
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
        except grpc.RpcError as error:
            sys.stderr.write(f"{options.target}: {error.code().name}\n")
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stderr.write(f"{options.target}: {status}\n")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _channel(target: str, tls: bool | TLS) -> grpc.Channel:
    credentials = channel_credentials(None, tls)
    if credentials is None:
        return grpc.insecure_channel(target)
    return grpc.secure_channel(target, credentials, channel_options(tls))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
