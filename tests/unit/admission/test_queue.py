"""Turns between callers."""

from collections import Counter

import pytest

from mistralchat_server.admission.queue import FairQueue


def _queue(**items: int) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue()
    for caller, count in items.items():
        for number in range(count):
            queue.put(caller, f"{caller}{number}")
    return queue


def _equal(_: str) -> int:
    return 0


def test_callers_of_equal_load_take_turns_and_keep_their_order() -> None:
    queue = _queue(a=3, b=1, c=2)
    assert [queue.take(_equal) for _ in range(6)] == ["a0", "b0", "c0", "a1", "c1", "a2"]
    assert len(queue) == 0
    with pytest.raises(ValueError):
        queue.take(_equal)


def test_the_caller_with_the_least_load_comes_first() -> None:
    queue = _queue(a=200, b=1)
    loads = {"a": 64, "b": 0}
    assert queue.take(loads.__getitem__) == "b0"
    assert queue.take(loads.__getitem__) == "a0"


def test_whoever_has_fewer_slots_catches_up() -> None:
    queue = _queue(a=50, b=50)
    loads = Counter(a=10)
    for _ in range(30):
        loads[queue.take(loads.__getitem__)[0]] += 1
    assert loads == {"a": 20, "b": 20}


def test_what_is_discarded_is_never_taken() -> None:
    queue = _queue(a=3, b=1)
    assert queue.discard("a", "a1")
    assert queue.discard("b", "b0")
    assert not queue.discard("b", "b0")
    assert not queue.discard("a", "z")
    assert len(queue) == 2
    assert [queue.take(_equal), queue.take(_equal)] == ["a0", "a2"]


def test_ends_of_a_callers_queue_and_the_heaviest_caller() -> None:
    queue = _queue(a=3, b=1)
    assert (queue.oldest("a"), queue.newest("a")) == ("a0", "a2")
    assert (queue.oldest("c"), queue.newest("c")) == (None, None)
    assert queue.heaviest({"a": 1, "b": 2, "c": 3}.__getitem__) == "b"
    assert _queue().heaviest(_equal) is None
