"""After how long callers are told to retry when there is no executor."""

from mistralchat_server.rpc.outage import Outage


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_before_the_first_start_nothing_is_known_and_something_is_told() -> None:
    assert Outage().retry_after > 0


def test_an_outage_that_begins_takes_as_long_as_usual() -> None:
    clock = Clock()
    outage = Outage(clock)
    outage.over(usual=12.5)
    clock.now += 1_000
    assert outage.retry_after == 12.5


def test_what_is_left_of_it_is_told_and_never_nothing() -> None:
    clock = Clock()
    outage = Outage(clock)
    outage.lasts(10)
    clock.now += 4
    assert outage.retry_after == 6
    clock.now += 60
    assert 0 < outage.retry_after < 1
    outage.over(usual=3)
    assert outage.retry_after == 3
