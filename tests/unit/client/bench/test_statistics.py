"""From what was noted to figures, on values whose figures are known."""

import math
from array import array
from collections import Counter

import numpy as np
import pytest

from mistralchat.bench.load import ClosedLoop
from mistralchat.bench.recording import Recording, merged
from mistralchat.bench.server_processes import ServerCpu
from mistralchat.bench.statistics import Figures, Level, Measurement, Times, summary


def recording() -> Recording:
    """Two answers: messages at 1, 2 and 4 s of one due at 0.5 s, and one at 3 s of another; and failures."""
    return Recording(
        due=array("d", [0.5, 2.0]),
        sent=array("d", [0.5, 2.25]),
        ended=array("d", [4.5, 3.0]),
        messages=array("q", [3, 1]),
        prompt_tokens=array("q", [10, 20]),
        completion_tokens=array("q", [7, 1]),
        queued=array("d", [0.25, math.nan]),
        server_time_to_first_token=array("d", [math.nan, math.nan]),
        received=array("d", [1.0, 2.0, 4.0, 3.0]),
        failures=Counter({"UNAVAILABLE": 2, "INTERNAL": 1}),
        reasons={"UNAVAILABLE": "stopping", "INTERNAL": "a fault"},
        interrupted=1,
        cpu_seconds=0.5,
    )


def test_percentiles_of_a_known_array() -> None:
    figures = summary(np.arange(101, dtype=np.float64)[::-1])
    assert figures is not None
    assert (figures.mean, figures.p50, figures.p90, figures.p99, figures.max) == (50, 50, 90, 99, 100)


def test_values_that_are_not_there_do_not_count() -> None:
    figures = summary(np.array([math.nan, 1.0, 3.0]))
    assert figures is not None
    assert (figures.mean, figures.max) == (2, 3)
    assert summary(np.array([math.nan])) is None
    assert summary(np.array([])) is None


def test_times_of_calls() -> None:
    times = Times.of(recording())
    assert times.time_to_first_token.tolist() == [0.5, 1.0]
    assert times.between_messages.tolist() == [1.0, 2.0]  # none from one call to the next
    assert times.per_token.tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
    assert times.total.tolist() == [4.0, 1.0]
    assert times.late.tolist() == [0.0, 0.25]


def test_figures_of_a_measurement() -> None:
    figures = Figures.of(Measurement(recording(), 4.0, ServerCpu(1.0, 2.0)))
    assert figures.calls == {"answered": 2, "failed": 3, "interrupted": 1}
    assert figures.statuses == {"OK": 2, "UNAVAILABLE": 2, "INTERNAL": 1}
    assert figures.tokens == {"prompt": 30, "completion": 8, "messages": 4}
    assert figures.per_second == {"calls": 0.5, "completion_tokens": 2.0, "messages": 1.0}
    assert figures.queued is not None
    assert figures.queued.max == 0.25
    assert figures.server_time_to_first_token is None
    assert figures.server_cpu_seconds == {"front_ends": 1.0, "executor": 2.0}


def test_nothing_answered_has_figures_too() -> None:
    figures = Figures.of(Measurement(Recording(failures=Counter(UNAVAILABLE=3)), 0.0, None))
    assert figures.statuses == {"UNAVAILABLE": 3}
    assert figures.per_second == {"calls": 0.0, "completion_tokens": 0.0, "messages": 0.0}
    assert figures.total is None
    assert figures.server_cpu_seconds is None


def test_rounds_together() -> None:
    seen, unseen = (Measurement(recording(), 2.0, cpu) for cpu in (ServerCpu(1.0, 2.0), None))
    overall = Level(ClosedLoop(1), [seen, seen]).overall
    assert overall.seconds == 4.0
    assert overall.server_cpu == ServerCpu(2.0, 4.0)
    assert Times.of(overall.recording).between_messages.tolist() == [1.0, 2.0, 1.0, 2.0]
    assert Level(ClosedLoop(1), [seen, unseen]).overall.server_cpu is None


def test_merged_recordings() -> None:
    other = Recording(failures=Counter(INTERNAL=4), reasons={"INTERNAL": "another fault"}, cpu_seconds=1.0)
    whole = merged([recording(), other, recording()])
    assert (whole.answered, whole.failed, whole.interrupted, whole.cpu_seconds) == (4, 10, 2, 2.0)
    assert whole.failures == {"UNAVAILABLE": 4, "INTERNAL": 6}
    assert whole.reasons == recording().reasons
    assert whole.messages.tolist() == [3, 1, 3, 1]
