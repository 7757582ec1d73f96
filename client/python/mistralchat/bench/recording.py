"""What is noted of calls while they run. Everything else is computed from it afterwards."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields


def _floats() -> "array[float]":
    return array("d")


def _integers() -> "array[int]":
    return array("q")


@dataclass(slots=True)
class Recording:
    """Answered calls as columns, one entry for each, and counts of the others.

    Times are in seconds by `time.perf_counter`, which all processes of a machine share.
    """

    due: "array[float]" = field(default_factory=_floats)
    """When the call was to begin: its arrival in an open loop."""
    sent: "array[float]" = field(default_factory=_floats)
    """When it did begin."""
    ended: "array[float]" = field(default_factory=_floats)
    """When its status was there."""
    messages: "array[int]" = field(default_factory=_integers)
    prompt_tokens: "array[int]" = field(default_factory=_integers)
    completion_tokens: "array[int]" = field(default_factory=_integers)
    queued: "array[float]" = field(default_factory=_floats)
    """By the server's clock; NaN where it does not tell, as in the next."""
    server_time_to_first_token: "array[float]" = field(default_factory=_floats)
    received: "array[float]" = field(default_factory=_floats)
    """When each message arrived: the messages of the first call, then those of the second, and so on."""
    failures: Counter[str] = field(default_factory=Counter)
    """Failed calls by status."""
    reasons: dict[str, str] = field(default_factory=dict)
    """What was said with the first failure of each status."""
    interrupted: int = 0
    """Calls that were open when the measurement was interrupted, or were never made."""
    cpu_seconds: float = 0.0
    """Of the generator."""

    @property
    def answered(self) -> int:
        """Calls that ended well."""
        return len(self.due)

    @property
    def failed(self) -> int:
        """Calls that ended with a status other than OK."""
        return self.failures.total()


def merged(recordings: Iterable[Recording]) -> Recording:
    """All of them in one."""
    whole = Recording()
    for recording in recordings:
        for column in fields(Recording):
            into, part = getattr(whole, column.name), getattr(recording, column.name)
            match into:
                case array():
                    into.extend(part)
                case Counter():
                    into.update(part)
                case dict():
                    into.update(part | into)
                case _:
                    setattr(whole, column.name, into + part)
    return whole
