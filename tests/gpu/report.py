"""What can be known on a machine with a GPU alone: starts a server there, tries it, writes one report.

    make test-gpu ENGINE=a100-bf16      or      python tests/gpu/report.py --engine a100-bf16

All arguments are those of `mistralchat serve`. The start-up proof, tests/conformance with the real engine
and a benchmark go into test-gpu-report.md, failures too.
Needs pytest, pytest-asyncio, pytest-timeout and jsonschema.
"""

import asyncio
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mistralchat import AsyncChatClient, ChatClient, ChatError

_ROOT = Path(__file__).parents[2]
_REPORT = Path("test-gpu-report.md")
_PACKAGES = ("mistralchat", "tensorrt_llm", "torch", "transformers", "xgrammar", "nvidia-modelopt", "grpcio")
_DEVICE = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
#: A checkpoint is read, CUDA graphs are recorded, every parameter is proven.
_START_SECONDS = 1_200.0
_STREAMS = (1, 16, 64)
_TOKENS = 128


def main(arguments: list[str]) -> int:
    """Returns 0 if the server started and all tests passed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    serve = ["serve", "--listen", target, *(arguments or ["--engine", "a100-bf16"])]
    log = _REPORT.with_suffix(".log")
    sections = [f"# mistralchat {' '.join(serve)}", _machine()]
    passed = False
    with log.open("w") as output:
        command = [sys.executable, "-c", "import sys; from mistralchat.cli import main; sys.exit(main())"]
        server = subprocess.Popen([*command, *serve], stdout=output, stderr=subprocess.STDOUT)
    try:
        sections.append(_started(target, server))
        conformance, passed = _conformance(target)
        sections += [conformance, asyncio.run(_benchmark(target))]
    except (ChatError, RuntimeError) as error:
        sections.append(f"## Stopped\n\n{error}")
    finally:
        server.terminate()
        server.wait()
        sections.append(f"## The server's log\n\n{_quoted(log.read_text(errors='replace')[-20_000:])}")
        _REPORT.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    print(f"{'all passed' if passed else 'FAILED'}: {_REPORT.resolve()}")
    return 0 if passed else 1


def _machine() -> str:
    versions = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package}: not installed")
    try:
        devices = subprocess.run(_DEVICE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        devices = f"nvidia-smi does not answer: {error}"
    return f"## Machine\n\n{_quoted(devices)}\n\n{_quoted(chr(10).join(versions))}"


def _started(target: str, server: "subprocess.Popen[bytes]") -> str:
    """The start-up proof's verdict, once the server is serving."""
    since = time.monotonic()
    with ChatClient(target) as client:
        while True:
            try:
                model = client.wait_until_serving(5.0)
                break
            except ChatError:
                if server.poll() is not None:
                    raise RuntimeError(f"The server ended with code {server.returncode}.") from None
                if time.monotonic() - since > _START_SECONDS:
                    raise
    seconds = time.monotonic() - since
    return f"## Start-up proof\n\nServing after {seconds:.0f} s. GetModel:\n\n{_quoted(str(model))}"


def _conformance(target: str) -> tuple[str, bool]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(_ROOT / "tests" / "conformance"), "-v", "--tb=short"],
        env=os.environ | {"MISTRALCHAT_CONFORMANCE_TARGET": target},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return f"## Conformance\n\n{_quoted(done.stdout[-30_000:])}", done.returncode == 0


async def _benchmark(target: str) -> str:
    rows = ["| streams | tokens/s in all | first token p50 | first token p99 |", "|---|---|---|---|"]
    async with AsyncChatClient(target) as client:
        for streams in _STREAMS:
            # Once to warm up: prompts of that batch size may be computed for the first time.
            for round_number in range(2):
                since = time.monotonic()
                asked = range(streams * round_number, streams * (round_number + 1))
                first = sorted(await asyncio.gather(*(_ask(client, number) for number in asked)))
                seconds = time.monotonic() - since
            p99 = first[min(len(first) - 1, round(0.99 * len(first)))]
            rate = streams * _TOKENS / seconds
            rows.append(
                f"| {streams} | {rate:,.0f} | {statistics.median(first) * 1e3:.0f} ms | {p99 * 1e3:.0f} ms |"
            )
    answers = f"Answers of {_TOKENS} tokens each, through the service on this machine."
    return f"## Benchmark\n\n{answers}\n\n" + "\n".join(rows)


async def _ask(client: AsyncChatClient, number: int) -> float:
    """Seconds to the first text of one answer."""
    question = f"Write a long story about a sailor who has {number + 2} ships."
    since = time.monotonic()
    first = None
    async for _ in client.chat(question, max_completion_tokens=_TOKENS, min_tokens=_TOKENS, timeout=600):
        first = first or time.monotonic() - since
    return first or time.monotonic() - since


def _quoted(text: str) -> str:
    return f"```\n{text}\n```"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
