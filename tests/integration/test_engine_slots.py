"""The engine's own count of what it works on, when a request is cancelled."""

from pathlib import Path

from mistralchat_server.executor.messages import Request
from mistralchat_server.executor.openvino.executor import OpenVINOExecutor
from mistralchat_server.executor.openvino.options import OpenVINOOptions


def test_a_cancelled_request_is_out_of_the_engine_with_the_next_step(model_path: Path) -> None:
    executor = OpenVINOExecutor(model_path, OpenVINOOptions(max_batch_size=3))
    try:
        for request_id in range(4):
            executor.submit(Request(request_id, [1, 2, 3 + request_id], 1_000, (), min_new_tokens=1_000))
        for _ in range(3):
            executor.step()
        engine = executor._pipeline.get_metrics
        assert (engine().scheduled_requests, executor.active) == (3, 4)

        executor.cancel(0)
        executor.cancel(1)
        step = executor.step()

        # The one that waited has taken up a slot in that very step.
        assert [request_id for request_id, _ in step.started] == [3]
        assert sorted(output.request_id for output in step.outputs) == [2, 3]
        assert (engine().scheduled_requests, executor.active) == (2, 2)

        executor.cancel(2)
        executor.cancel(3)
        assert executor.step().outputs == []
        assert (executor.active, executor._pipeline.has_non_finished_requests()) == (0, False)
    finally:
        executor.close()
