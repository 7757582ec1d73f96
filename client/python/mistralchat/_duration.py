"""A protobuf duration as seconds."""

from google.protobuf.duration_pb2 import Duration


def seconds(duration: Duration) -> float:
    """Not by way of `ToTimedelta`, which raises for what no timedelta can hold."""
    return duration.seconds + duration.nanos / 1e9
