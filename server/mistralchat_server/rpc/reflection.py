"""Server reflection in both its versions, for grpcurl and other tools that ask for the contract.

grpcio-reflection serves v1alpha only. v1 differs from it in its package name alone, so the same servicer
answers both: https://github.com/grpc/grpc-proto/blob/master/grpc/reflection/v1/reflection.proto
"""

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

_SERVICE, _METHOD = "grpc.reflection.v1.ServerReflection", "ServerReflectionInfo"


def enable(services: Sequence[str], server: grpc.aio.Server) -> None:
    """Makes `services`, by their full names, and reflection itself known to callers."""
    _describe_v1()
    names = (*services, reflection.SERVICE_NAME, _SERVICE)
    servicer = reflection.aio.ReflectionServicer(names)
    reflection.enable_server_reflection(names, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))


def _describe_v1() -> None:
    """Adds v1's own description to the pool that reflection answers from."""
    alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    v1 = text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(v1.SerializeToString())
