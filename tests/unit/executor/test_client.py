"""The front end's connection while nobody is at its other end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mistralchat_server.executor.client import ExecutorClient
from mistralchat_server.executor.front_ends import FrontEnds
from mistralchat_server.executor.heartbeat import Heartbeat, create
from mistralchat_server.executor.messages import (
    Attach,
    Cancel,
    Description,
    Detach,
    Iteration,
    Output,
    Request,
)
from mistralchat_server.executor.stream import ExecutorGoneError
from mistralchat_server.executor.suspects import Suspects

_DESCRIPTION = Description("fake", "none", 100, 1, 10)


@pytest.fixture
async def clients(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[ExecutorClient]]:
    """Of two front ends."""
    folder = str(tmp_path_factory.mktemp("c"))
    clients = [ExecutorClient(folder, Suspects(), number) for number in range(2)]
    yield clients
    for client in clients:
        client.lose()


def _request(client: ExecutorClient) -> Request:
    return Request(client.new_id(), [1], 1, ())


async def test_a_command_that_nobody_can_receive_holds_nobody_up(clients: list[ExecutorClient]) -> None:
    # It would for ever, as between the death of the executor and the news of it.
    clients[0].send(Cancel(1))


async def test_without_an_executor_nothing_is_generated(clients: list[ExecutorClient]) -> None:
    with pytest.raises(ExecutorGoneError):
        clients[0].open(_request(clients[0]))


async def test_each_front_end_gets_what_concerns_its_requests(clients: list[ExecutorClient]) -> None:
    first, second = clients
    executor = FrontEnds(first.endpoint, Heartbeat(create()))
    executor.ready(_DESCRIPTION)
    assert await first.ready() == _DESCRIPTION
    first.send(Attach(1, second.endpoint))
    assert list(executor.receive(wait=True)) == []
    assert await second.ready() == _DESCRIPTION
    requests = [_request(client) for client in clients]
    one, other = first.open(requests[0]), second.open(requests[1])
    arrived: list[object] = []
    while len(arrived) < 2:
        arrived += executor.receive(wait=True)
    assert arrived == requests
    outputs = [Output(request.id, [number]) for number, request in enumerate(requests)]
    executor.publish(Iteration(1, 2, [], outputs, []))
    assert [output.token_ids for output in await one.take()] == [[0]]
    assert [output.token_ids for output in await other.take()] == [[1]]
    # One that has left is known to be out with the next iteration, whosever outputs that holds.
    executor.publish(Iteration(2, 2, [], [Output(requests[0].id, [2])], []))
    assert [output.token_ids for output in await one.take()] == [[2]]
    while second.last_iteration is None or second.last_iteration.step < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert second.last_iteration.outputs == []
    # A front end that has ended takes its requests with it.
    first.send(Detach(1))
    assert list(executor.receive(wait=True)) == [Cancel(requests[1].id)]
    executor.publish(Iteration(3, 1, [], [Output(requests[0].id, [5], last=True)], []))
    assert [output.token_ids for output in await one.take()] == [[5]]
