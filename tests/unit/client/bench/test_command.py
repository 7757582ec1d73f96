"""The command where nothing is measured, and the processes that it would count."""

import os
import subprocess
import sys

import psutil
import pytest

from mistralchat.bench import server_processes
from mistralchat.bench.table import duration, rate
from mistralchat.cli import main
from mistralchat.v1 import chat_pb2

from ....conftest import eventually
from ..conftest import FakeChatService, running


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--concurrency 8 --requests 4", "--requests must be at least the 8 of --concurrency"),
        ("--concurrency 0", "'0' is not a whole number above 0"),
        ("--concurrency 1,x", "'x' is not a whole number above 0"),
        ("--rate -1", "'-1' is not a number above 0"),
        ("--rate inf", "'inf' is not a number above 0"),
        ("--rate 2 --concurrency 2", "not allowed with"),
        ("--prompt-tokens uniform:9,3", "none of N, uniform:LEAST,MOST and lognormal:MEDIAN,SIGMA"),
        ("--plot here.gif", "must end with one of .pdf .png .svg"),
        ("--json no/such/folder/it.json", "there is no folder no/such/folder"),
        ("--token-file no/such/file", "no/such/file"),
    ],
)
def test_wrong_usage_is_told_before_anything_runs(
    arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--target", "127.0.0.1:1", *arguments.split()])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--target", "127.0.0.1:1"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: no connection to 127.0.0.1:1: ")
    assert captured.err.count("\n") == 1


def test_a_server_that_is_not_serving(
    service: FakeChatService, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    service.starting = 1
    assert main(["bench", "--target", target]) == 1
    assert "the executor is loading" in capsys.readouterr().err


def test_a_server_without_min_tokens(
    service: FakeChatService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = chat_pb2.GetModelResponse(
        unsupported_parameters=[chat_pb2.UnsupportedParameter(name="min_tokens", reason="no model")]
    )
    monkeypatch.setattr(service, "GetModel", lambda request, context: model)
    with running(service) as target:
        assert main(["bench", "--target", target]) == 1
    assert "--may-end-early" in capsys.readouterr().err


def test_no_such_server_process(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    gone = psutil.Popen(["true"])
    gone.wait()
    assert main(["bench", "--target", target, "--server-pid", str(gone.pid)]) == 1
    assert f"there is no process {gone.pid}" in capsys.readouterr().err


def test_the_process_behind_a_target(target: str) -> None:
    server = server_processes.behind(target)
    assert server is not None
    assert server.cpu().front_ends > 0
    assert os.getpid() in server.pids


@pytest.mark.parametrize("elsewhere", ["192.0.2.1:50051", "nowhere.invalid:50051", "unix:/a/socket", "a"])
def test_a_server_elsewhere_cannot_be_seen(elsewhere: str) -> None:
    assert server_processes.behind(elsewhere) is None


def test_time_of_processes_that_have_ended_stays() -> None:
    busy = [sys.executable, "-c", "sum(range(3_000_000)); input()"]
    with subprocess.Popen(busy, stdin=subprocess.PIPE) as process:
        server = server_processes.by_pid(process.pid)
        eventually(lambda: server.cpu().total > 0, "it has computed")
        process.communicate(b"\n")
    before = server.cpu()
    assert before.total > 0
    assert server.cpu() == before


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.000_123, "0.12 ms"),
        (0.009_99, "9.99 ms"),
        (0.012_34, "12.3 ms"),
        (0.1234, "123 ms"),
        (0.9996, "1.00 s"),
        (12.34, "12.3 s"),
    ],
)
def test_durations_have_three_digits(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_rates_have_three_digits_at_least() -> None:
    assert [rate(value) for value in (0, 1.234, 12.34, 123.4, 20_404)] == [
        "0.00",
        "1.23",
        "12.3",
        "123",
        "20,404",
    ]
