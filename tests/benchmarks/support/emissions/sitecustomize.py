"""Makes a replay executor note what it emitted and when, and which requests were cancelled.

Python imports this module at its start where this folder is on PYTHONPATH, so that the service under
measurement is started as always. The notes go to the file that MISTRALCHAT_EMISSIONS names, when the
executor closes; `support.emission_log` reads them.
"""

import json
import os
import time
from pathlib import Path

from mistralchat_server.executor.messages import Request
from mistralchat_server.executor.replay import ReplayExecutor
from mistralchat_server.executor.seam import StepResult

#: So many of a prompt's first tokens are noted: a stream's name.
_NAME_TOKENS = 8

_steps: list[tuple[float, list[int]]] = []
_names: dict[int, list[int]] = {}
_cancelled: list[tuple[float, int]] = []
_submit, _cancel = ReplayExecutor.submit, ReplayExecutor.cancel
_step, _close = ReplayExecutor.step, ReplayExecutor.close


def _noting_submit(self: ReplayExecutor, request: Request) -> None:
    _names[request.id] = request.prompt_token_ids[:_NAME_TOKENS]
    _submit(self, request)


def _noting_cancel(self: ReplayExecutor, request_id: int) -> None:
    _cancelled.append((time.monotonic(), request_id))
    _cancel(self, request_id)


def _noting_step(self: ReplayExecutor) -> StepResult:
    result = _step(self)
    # Before the step is encoded and sent: all of that is the service's delay.
    _steps.append((time.monotonic(), [output.request_id for output in result.outputs]))
    return result


def _noting_close(self: ReplayExecutor) -> None:
    notes = {"names": _names, "steps": _steps, "cancelled": _cancelled}
    Path(os.environ["MISTRALCHAT_EMISSIONS"]).write_text(json.dumps(notes), encoding="utf-8")
    _close(self)


ReplayExecutor.submit = _noting_submit  # type: ignore[method-assign]
ReplayExecutor.cancel = _noting_cancel  # type: ignore[method-assign]
ReplayExecutor.step = _noting_step  # type: ignore[method-assign]
ReplayExecutor.close = _noting_close  # type: ignore[method-assign]
