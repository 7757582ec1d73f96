"""Files that change, without waiting for the second after which they are looked at again."""

import pytest

from mistralchat_server.security import watched


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_INTERVAL", -1.0)
