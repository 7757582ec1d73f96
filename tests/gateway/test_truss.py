"""The Trusses of deploy/truss: valid by the real truss package, and their start scripts run."""

import http.client
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import eventually, free_port

_ROOT = Path(__file__).parents[2]
_TRUSSES = _ROOT / "deploy" / "truss"
#: An environment of its own: truss wants an older rich and a newer protobuf than this project has.
_PYTHON = _ROOT / ".cache" / "truss" / "bin" / "python"

_LOAD = """
import json, pathlib, sys, truss
handle = truss.load(sys.argv[1])
handle.docker_build_setup(pathlib.Path(sys.argv[2]))
config = handle.spec.config
print(json.dumps({
    "server": config.docker_server.model_dump(mode="json"),
    "transport": config.runtime.transport.kind,
    "accelerator": str(config.resources.accelerator.accelerator.value),
    "count": config.resources.accelerator.count,
    "concurrency": config.runtime.predict_concurrency,
}))
"""


def _loaded(name: str, folder: Path) -> Any:
    if not _PYTHON.exists():
        pytest.skip("needs the truss package: `make test` installs it")
    done = subprocess.run(
        [_PYTHON, "-c", _LOAD, _TRUSSES / name, folder],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "transport", "port", "route"),
    [("grpc", "grpc", 50051, "/"), ("openai", "http", 8000, "/v1/chat/completions")],
)
def test_truss_accepts_it_and_writes_its_image(
    name: str, transport: str, port: int, route: str, tmp_path: Path
) -> None:
    config = _loaded(name, tmp_path)
    assert (config["accelerator"], config["count"]) == ("A100", 1)
    assert config["transport"] == transport
    assert (config["server"]["server_port"], config["server"]["predict_endpoint"]) == (port, route)
    assert config["concurrency"] == 128
    dockerfile = (tmp_path / "Dockerfile").read_text()
    assert dockerfile.index("./data ${APP_HOME}/data") < dockerfile.index("/app/data/mistralchat-*.whl")
    assert (tmp_path / "data" / "start.sh").read_bytes() == (
        _TRUSSES / name / "data" / "start.sh"
    ).read_bytes()
    proxy = (tmp_path / "proxy.conf").read_text()
    assert ("grpc_pass" in proxy) == (transport == "grpc")


@pytest.mark.parametrize("name", ["grpc", "openai"])
def test_the_recipe_and_the_extras_exist(name: str) -> None:
    start = (_TRUSSES / name / "data" / "start.sh").read_text()
    (recipe,) = {line.split("--engine ")[1] for line in start.splitlines() if "--engine" in line}
    recipe_file = yaml.safe_load((_ROOT / "engines" / f"{recipe}.yaml").read_text())
    config = yaml.safe_load((_TRUSSES / name / "config.yaml").read_text())
    assert recipe_file["trtllm"]["max_batch_size"] == config["runtime"]["predict_concurrency"]
    (command,) = config["build_commands"]
    extras = command.rpartition("[")[2].partition("]")[0].split(",")
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= set(project["optional-dependencies"])


def _start(name: str, log: Path, **ports: str) -> subprocess.Popen[bytes]:
    environment = os.environ | ports | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with log.open("wb") as file:
        return subprocess.Popen(
            ["bash", _TRUSSES / name / "data" / "start.sh", "--executor", "replay"],
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def test_the_start_script_of_the_grpc_truss_is_the_server(tmp_path: Path) -> None:
    process = _start("grpc", tmp_path / "log", GRPC_PORT=str(free_port()))
    try:
        eventually(lambda: b" serving " in (tmp_path / "log").read_bytes(), "it serves")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        _end(process)


def _status(port: int, method: str, path: str, body: bytes = b"") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"content-type": "application/json"})
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@pytest.fixture
def openai_truss(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The start script, when its route can be called, and its port."""
    port = free_port()
    process = _start("openai", tmp_path / "log", GRPC_PORT=str(free_port()), HTTP_PORT=str(port))
    try:
        eventually(lambda: _status(port, "GET", "/readiness") == 200, "it is ready")
        yield process, port
    finally:
        _end(process)


def test_the_start_script_of_the_openai_truss_maps_the_route_and_ends_with_its_server(
    openai_truss: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, port = openai_truss
    config = yaml.safe_load((_TRUSSES / "openai" / "config.yaml").read_text())["docker_server"]
    assert _status(port, "GET", config["readiness_endpoint"]) == 200
    assert _status(port, "GET", config["liveness_endpoint"]) == 200
    body = {"model": "replay", "temperature": 0, "messages": [{"role": "user", "content": "Hello"}]}
    assert _status(port, "POST", config["predict_endpoint"], json.dumps(body).encode()) == 200
    os.kill(_child(process.pid, "serve"), signal.SIGKILL)
    assert process.wait(30) != 0
    assert _status(port, "GET", config["liveness_endpoint"]) == 0


def test_the_start_script_of_the_openai_truss_drains(
    openai_truss: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, port = openai_truss
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert _status(port, "GET", "/liveness") == 0


def _child(parent: int, word: str) -> int:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    (found,) = [pid for pid, command in commands.items() if word.encode() in command.split(b"\0")]
    return found
