"""From what was noted to the figures that are reported. All times are in seconds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from mistralchat.bench.load import Load
from mistralchat.bench.recording import Recording, merged
from mistralchat.bench.server_processes import ServerCpu

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summary:
    """A distribution in five numbers. Percentiles are interpolated linearly between values."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float


def summary(values: Values) -> Summary | None:
    """None where there are no values; those that are NaN do not count."""
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return Summary(float(values.mean()), float(p50), float(p90), float(p99), float(values.max()))


@dataclass(frozen=True, slots=True)
class Measurement:
    """One round at one load, or several of them together."""

    recording: Recording
    seconds: float
    server_cpu: ServerCpu | None
    """None where the server cannot be seen."""


def together(measurements: Sequence[Measurement]) -> Measurement:
    """Several rounds as one long one."""
    cpu: ServerCpu | None = ServerCpu(0.0, 0.0)
    for measurement in measurements:
        cpu = None if cpu is None or measurement.server_cpu is None else cpu + measurement.server_cpu
    return Measurement(
        merged(measurement.recording for measurement in measurements),
        sum(measurement.seconds for measurement in measurements),
        cpu,
    )


@dataclass(frozen=True, slots=True)
class Times:
    """One value for each answered call; `between_messages` has one for each message but a call's first."""

    time_to_first_token: Values
    """From when the call was due to its first message."""
    between_messages: Values
    per_token: Values
    """From the first message to the last, over the tokens after the first. NaN for a single token."""
    total: Values
    """From when the call was due to its status."""
    queued: Values
    """Until the executor took the request up, by the server's clock. NaN where it does not tell."""
    server_time_to_first_token: Values
    """By the server's clock."""
    late: Values
    """How much later than due the generator began the call."""

    @classmethod
    def of(cls, recording: Recording) -> "Times":
        """Computed from what was noted."""
        due, sent, ended = (np.asarray(column) for column in (recording.due, recording.sent, recording.ended))
        received = np.asarray(recording.received)
        messages = np.asarray(recording.messages)
        tokens = np.asarray(recording.completion_tokens)
        ends = np.cumsum(messages)
        first, last = received[ends - messages], received[ends - 1]
        gaps = np.delete(np.diff(received), ends[:-1] - 1) if received.size else received
        with np.errstate(divide="ignore", invalid="ignore"):
            per_token = np.where(tokens > 1, (last - first) / (tokens - 1), np.nan)
        return cls(
            first - due,
            gaps,
            per_token,
            ended - due,
            np.asarray(recording.queued),
            np.asarray(recording.server_time_to_first_token),
            sent - due,
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """What is reported of a measurement; the JSON report holds it field by field."""

    seconds: float
    calls: dict[str, int]
    """`answered`, `failed`, `interrupted`."""
    statuses: dict[str, int]
    """Ended calls by gRPC status."""
    tokens: dict[str, int]
    """Of answered calls: `prompt`, `completion`, by their last message's usage; and their `messages`."""
    per_second: dict[str, float]
    """`calls` answered, `completion_tokens`, `messages`."""
    time_to_first_token: Summary | None
    between_messages: Summary | None
    per_token: Summary | None
    total: Summary | None
    queued: Summary | None
    server_time_to_first_token: Summary | None
    late: Summary | None
    generator_cpu_seconds: float
    server_cpu_seconds: dict[str, float] | None
    """`front_ends`, `executor`."""

    @classmethod
    def of(cls, measurement: Measurement) -> "Figures":
        """The figures of a measurement."""
        recording, seconds = measurement.recording, measurement.seconds
        times = Times.of(recording)
        tokens = {
            "prompt": sum(recording.prompt_tokens),
            "completion": sum(recording.completion_tokens),
            "messages": sum(recording.messages),
        }
        amounts = {
            "calls": recording.answered,
            "completion_tokens": tokens["completion"],
            "messages": tokens["messages"],
        }
        answered = {"OK": recording.answered} if recording.answered else {}
        return cls(
            seconds,
            {
                "answered": recording.answered,
                "failed": recording.failed,
                "interrupted": recording.interrupted,
            },
            answered | dict(recording.failures.most_common()),
            tokens,
            {name: amount / seconds if amount else 0.0 for name, amount in amounts.items()},
            **{name: summary(getattr(times, name)) for name in Times.__slots__},
            generator_cpu_seconds=recording.cpu_seconds,
            server_cpu_seconds=None if measurement.server_cpu is None else asdict(measurement.server_cpu),
        )


@dataclass(frozen=True, slots=True)
class Level:
    """One load and its rounds, in order."""

    load: Load
    rounds: list[Measurement]

    @property
    def overall(self) -> Measurement:
        """All rounds together."""
        return together(self.rounds)
