"""The engine's cache of compiled constraints, which it has no bound for itself."""

import logging
from pathlib import Path

import pytest

from mistralchat_server.executor.messages import Constraint, ConstraintKind, Output, Request
from mistralchat_server.executor.openvino import executor as executor_module
from mistralchat_server.executor.openvino import rehearsal
from mistralchat_server.executor.openvino.executor import OpenVINOExecutor
from mistralchat_server.executor.openvino.options import OpenVINOOptions

_RUNNING = Request(100, [1, 2, 3], 200, (), min_new_tokens=200)


def _constrained(request_id: int) -> Request:
    constraint = Constraint(ConstraintKind.REGEX, (f"[a-c]{{{request_id + 3}}}",))
    return Request(request_id, [1, 2, 3], 40, (0, 2), constraint=constraint)


def test_when_it_is_full_the_engine_is_loaded_anew_once_nothing_runs(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in (executor_module, rehearsal):
        monkeypatch.setattr(module, "MOST_COMPILED", 2)
    caplog.set_level(logging.INFO)
    executor = OpenVINOExecutor(model_path, OpenVINOOptions(max_batch_size=4, kv_cache_gb=1))
    first = executor._pipeline
    outputs: dict[int, list[Output]] = {}

    def run() -> None:
        while executor.active:
            result = executor.step()
            assert result.failures == []
            for output in result.outputs:
                # Nobody's answer is interrupted by the change.
                outputs.setdefault(output.request_id, []).append(output)
                assert output.request_id != _RUNNING.id or executor._pipeline is first

    try:
        executor.submit(_RUNNING)
        for request_id in range(3):
            executor.submit(_constrained(request_id))
        run()
        assert sum("loading it anew" in record.getMessage() for record in caplog.records) == 1
        # One that was forgotten is compiled once more.
        executor.submit(_constrained(0))
        run()
    finally:
        executor.close()
    assert sum(len(output.token_ids) for output in outputs[_RUNNING.id]) == 200
    assert set(outputs) == {*range(3), _RUNNING.id}
    assert all(answer[-1].last for answer in outputs.values())
