"""`mistralchat bench` against replay servers: what it reports, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mistralchat.cli import main

from .conftest import Server, eventually

_COMMAND = [sys.executable, "-c", "import sys; from mistralchat.cli import main; sys.exit(main())", "bench"]
_TIMES = ("time_to_first_token", "between_messages", "per_token", "total", "queued")


def bench(server: Server, folder: Path, arguments: str) -> tuple[int, Any]:
    """Exit status and JSON report."""
    path = folder / "report.json"
    usual = ["--target", server.address, "--warm-up", "2", "--json", str(path)]
    status = main(["bench", *usual, *arguments.split()])
    return status, json.loads(path.read_text(encoding="utf-8"))


def test_a_closed_loop(replay_server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "picture.png"
    status, report = bench(
        replay_server,
        tmp_path,
        "--concurrency 2,4 --requests 12 --prompt-tokens 40 --max-completion-tokens 16 --rounds 2 "
        f"--processes 2 --connections 2 --plot {picture}",
    )
    assert status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert (report["format"], report["version"], report["interrupted"]) == ("mistralchat-bench", 1, False)
    assert report["command_line"][:3] == ["mistralchat", "bench", "--target"]
    assert report["server"]["model"]["executor"] == "replay"
    assert os.getpid() in report["server"]["pids"]
    assert report["machine"]["cores"] == os.cpu_count()
    assert [level["load"] for level in report["levels"]] == [
        {"kind": "closed", "concurrency": 2},
        {"kind": "closed", "concurrency": 4},
    ]
    for level in report["levels"]:
        assert len(level["rounds"]) == 2
        overall = level["overall"]
        assert overall["calls"] == {"answered": 24, "failed": 0, "interrupted": 0}
        assert overall["statuses"] == {"OK": 24}
        assert (overall["tokens"]["prompt"], overall["tokens"]["completion"]) == (24 * 40, 24 * 16)
        assert overall["seconds"] == sum(round_["seconds"] for round_ in level["rounds"])
        assert overall["server_cpu_seconds"]["front_ends"] > 0
        for name in _TIMES:
            times = overall[name]
            assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"]
        assert overall["time_to_first_token"]["max"] <= overall["total"]["max"]
    captured = capsys.readouterr()
    assert "first token" in captured.out
    assert "2 callers" in captured.out
    assert "4 callers, round 2 of 2: 12 answers in " in captured.err


def test_an_open_loop(replay_server: Server, tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    status, report = bench(
        replay_server,
        tmp_path,
        f"--rate 60 --requests 30 --prompt-tokens uniform:12,50 --max-completion-tokens 8 --plot {picture}",
    )
    assert status == 0
    assert "<svg" in picture.read_text(encoding="utf-8")
    (level,) = report["levels"]
    assert level["load"] == {"kind": "open", "rate": 60.0}
    assert level["overall"]["statuses"] == {"OK": 30}
    assert level["overall"]["tokens"]["completion"] == 30 * 8
    assert 30 * 12 <= level["overall"]["tokens"]["prompt"] <= 30 * 50


def test_an_open_loop_sees_calls_wait(serve: Callable[..., Server], tmp_path: Path) -> None:
    """One call at a time, of half a second each, and four at once: in a closed loop none would wait."""
    admission = {"max_queue_seconds": 60}
    server = serve(replay={"step_seconds": 0.05, "max_batch_size": 1}, admission=admission)
    arguments = "--rate 1000 --requests 4 --max-completion-tokens 10 --warm-up 0"
    _, report = bench(server, tmp_path, arguments)
    # Arrivals do not wait for answers: the last call is answered after all the others.
    assert report["levels"][0]["overall"]["total"]["max"] > 1.9
    assert report["levels"][0]["overall"]["time_to_first_token"]["max"] > 1.4


def test_failures_by_status(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(replay={"step_seconds": 0.0, "context_length": 100})
    arguments = "--requests 30 --prompt-tokens 20 --max-completion-tokens uniform:10,190"
    status, report = bench(server, tmp_path, arguments)
    (level,) = report["levels"]
    statuses = level["overall"]["statuses"]
    assert status == 0
    assert statuses.keys() == {"OK", "INVALID_ARGUMENT"}
    assert sum(statuses.values()) == 30
    assert "max_completion_tokens" in level["failures"]["INVALID_ARGUMENT"]
    captured = capsys.readouterr()
    assert f"1 caller: {statuses['INVALID_ARGUMENT']} ended with INVALID_ARGUMENT" in captured.out


def test_no_call_is_answered(
    serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(replay={"step_seconds": 0.0, "context_length": 100})
    picture = tmp_path / "none.png"
    status, report = bench(server, tmp_path, f"--requests 3 --max-completion-tokens 500 --plot {picture}")
    assert status == 1
    assert report["levels"][0]["overall"]["statuses"] == {"INVALID_ARGUMENT": 3}
    assert "no call was answered" in capsys.readouterr().out
    assert not picture.exists()


def test_a_server_that_is_loading(serve: Callable[..., Server], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--target", serve(load=False).address]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_an_interruption_prints_what_was_measured(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(replay={"step_seconds": 0.01})
    path = tmp_path / "report.json"
    arguments = "--concurrency 4 --requests 4000 --max-completion-tokens 10 --warm-up 0 --processes 2"
    with subprocess.Popen(
        [*_COMMAND, "--target", server.address, *arguments.split(), "--json", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal, where the signal reaches the whole group.
        start_new_session=True,
    ) as process:
        eventually(lambda: server.executor.open_streams > 0, "it measures")
        time.sleep(1.5)
        os.killpg(process.pid, signal.SIGINT)
        said, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in errors
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["interrupted"] is True
    calls = report["levels"][0]["overall"]["calls"]
    assert calls["answered"] > 0
    assert calls["answered"] + calls["interrupted"] == 4_000
    server.await_idle()


def test_a_generator_that_dies_is_told(
    serve: Callable[..., Server], capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve(replay={"step_seconds": 0.01})

    def kill() -> None:
        eventually(lambda: server.executor.open_streams > 0, "it runs")
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
                break

    killer = threading.Thread(target=kill)
    killer.start()
    assert main(["bench", "--target", server.address, "--requests", "4000", "--processes", "2"]) == 1
    killer.join()
    errors = capfd.readouterr().err
    assert "a process of the load generator has died" in errors
    assert "Traceback" not in errors
