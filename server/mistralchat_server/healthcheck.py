"""A container's health check: asks the server at HOST:PORT over gRPC whether it is serving."""

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SECONDS = 4.0


def main(argv: list[str]) -> int:
    """Returns 0 if the server is serving, else 1."""
    target = argv[0] if argv else "127.0.0.1:50051"
    with grpc.insecure_channel(target) as channel:
        # The stubs of the types describe no methods.
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
        except grpc.RpcError as error:
            sys.stderr.write(f"{target}: {error.code().name}\n")
            return 1
    sys.stderr.write(f"{target}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}\n")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
