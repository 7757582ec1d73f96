"""A loop that stands still is told from one that is slow, and from a front end that stood still itself."""

import os

from mistralchat_server.executor import heartbeat
from mistralchat_server.executor.heartbeat import Heartbeat
from mistralchat_server.executor.watchdog import Watchdog

_TIMEOUT = 10.0


class Pulse:
    beats = 0

    def __call__(self) -> int:
        return self.beats


def _looks(dog: Watchdog, *moments: float) -> list[bool]:
    return [dog.look(now) for now in moments]


def test_silence_of_the_whole_timeout_is_a_hang() -> None:
    dog = Watchdog(Pulse(), _TIMEOUT)
    assert _looks(dog, *range(11)) == [False] * 10 + [True]


def test_every_beat_begins_the_timeout_anew() -> None:
    pulse = Pulse()
    dog = Watchdog(pulse, _TIMEOUT)
    assert not any(_looks(dog, *range(10)))
    pulse.beats += 1
    assert not any(_looks(dog, *range(10, 20)))
    assert _looks(dog, 20, 21) == [True, True]


def test_time_in_which_nobody_looked_does_not_count() -> None:
    # As after a pause of the whole container.
    dog = Watchdog(Pulse(), _TIMEOUT)
    assert _looks(dog, 0, 1, 10_000) == [False] * 3
    assert dog.silence < _TIMEOUT / 2


def test_both_processes_see_the_same_heart() -> None:
    descriptor = heartbeat.create()
    here, there = Heartbeat(descriptor), Heartbeat(descriptor)
    os.close(descriptor)
    assert (here.beats, there.beats) == (0, 0)
    there.beat()
    there.beat()
    assert here.beats == 2
