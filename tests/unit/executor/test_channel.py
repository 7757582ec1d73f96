"""The connection between a front end and the executor process."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistralchat_server.executor.channel import Channel


def _pair() -> tuple[Channel, Channel]:
    first, second = socket.socketpair()
    return Channel(first), Channel(second)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    pair = _pair()
    yield pair
    for end in pair:
        end.close()


def _received(channel: Channel) -> list[bytes]:
    """All that has arrived, however many looks it takes."""
    messages: list[bytes] = []
    while arrived := channel.receive():
        messages += arrived
    return messages


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_messages_arrive_whole_and_in_order(messages: list[bytes]) -> None:
    one, other = _pair()
    for message in messages:
        one.send(message)
    assert _received(other) == messages
    one.close()
    other.close()


def test_a_message_that_has_not_arrived_whole_is_awaited() -> None:
    first, second = socket.socketpair()
    channel = Channel(second)
    for byte in b"\x05\x00\x00\x00Hel":
        first.send(bytes([byte]))
        assert channel.receive() == []
    first.send(b"lo\x00\x00\x00\x00")
    assert channel.receive() == [b"Hello", b""]
    first.close()
    channel.close()


def test_what_nobody_takes_is_kept_and_holds_nobody_up(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    messages = [bytes([number]) * 1_000_000 for number in range(8)]
    for message in messages:
        one.send(message)
    assert one.unsent
    count = 0
    while count < len(messages):
        one.flush()
        for message in other.receive():
            assert message == messages[count]
            count += 1
    assert not one.unsent


def test_nothing_to_receive_is_no_end(ends: tuple[Channel, Channel]) -> None:
    assert ends[0].receive() == []


def test_what_was_sent_before_the_end_arrives_before_it(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    one.send(b"last words")
    one.close()
    assert other.receive() == [b"last words"]
    with pytest.raises(EOFError):
        other.receive()


def test_with_nobody_at_the_other_end_messages_are_dropped(ends: tuple[Channel, Channel]) -> None:
    one, other = ends
    other.close()
    one.send(b"x" * 1_000_000)
    assert not one.unsent
    with pytest.raises(EOFError):
        one.receive()
