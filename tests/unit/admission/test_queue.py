"""Turns between callers."""

import pytest

from mistralchat_server.admission.queue import FairQueue


def _queue(**items: int) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue()
    for caller, count in items.items():
        for number in range(count):
            queue.put(caller, f"{caller}{number}")
    return queue


def _equal(_: str) -> tuple[int, int]:
    return 0, 0


def test_a_callers_items_keep_their_order() -> None:
    queue = _queue(a=2, b=1)
    assert [queue.take(_equal) for _ in range(3)] == ["a0", "a1", "b0"]
    assert len(queue) == 0
    with pytest.raises(ValueError):
        queue.take(_equal)


def test_the_caller_with_the_least_load_comes_first() -> None:
    queue = _queue(a=200, b=1, c=2)
    loads = {"a": (3, 7), "b": (3, 5), "c": (2, 9)}
    assert [queue.take(loads.__getitem__) for _ in range(4)] == ["c0", "c1", "b0", "a0"]


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
    assert _queue().heaviest(len) is None
