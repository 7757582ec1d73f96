"""What calls have taken, and when refused ones should return."""

import pytest

from mistralchat_server.admission.pace import Average, Pace

#: Of a delay, to either side.
_JITTER = 0.2


def _near(seconds: float) -> object:
    return pytest.approx(seconds, rel=_JITTER + 1e-6)


def test_an_average_is_plain_at_first_and_forgets_later() -> None:
    average = Average()
    assert average.value is None
    for value in (1.0, 2.0, 6.0):
        average.add(value)
    assert average.value == pytest.approx(3)
    for _ in range(1_000):
        average.add(10)
    assert average.value == pytest.approx(10, rel=1e-3)


def test_slots_become_free_as_calls_end() -> None:
    pace = Pace(guess=2)
    assert pace.between_slots(4) == 0.5
    pace.held.add(8)
    assert pace.between_slots(4) == 2


def test_refused_callers_are_spread_at_the_pace_of_the_slots() -> None:
    pace = Pace(guess=1)
    pace.held.add(4)
    # Ten slots: one every 0.4 s.
    assert [pace.turn(100, 1, 10) for _ in range(4)] == [_near(1.4), _near(1.8), _near(2.2), _near(2.6)]
    # Two seconds later, two seconds less.
    assert pace.turn(102, 0, 10) == _near(1.0)
    # Once all turns have passed, the next is at hand.
    assert pace.turn(200, 0, 10) == _near(0.4)


def test_delays_stay_sane() -> None:
    pace = Pace(guess=1)
    pace.held.add(0.001)
    assert 0.08 <= pace.turn(0, 0, 100) <= 0.12
    pace.held.add(1e6)
    delays = [pace.turn(0, 0, 1) for _ in range(50)]
    assert all(24 <= delay <= 36 for delay in delays)
    assert len(set(delays)) > 10
    assert pace.turn(31, 0, 100_000) < 36


def test_one_of_many_running_calls_ends_sooner() -> None:
    pace = Pace(guess=1)
    pace.held.add(8)
    assert pace.next_end(4) == _near(2)
    assert pace.next_end(0) == _near(8)
