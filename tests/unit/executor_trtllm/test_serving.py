"""A whole server on the stand-in: the conformance suite, and the death of the engine.

What the suite finds here is whether parameters arrive and come back; the engine is not there.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mistralchat import ChatClient, Unavailable

_ROOT = Path(__file__).parents[3]
_STAND_IN = Path(__file__).with_name("stand_in")
_START_SECONDS = 60.0
#: What needs a model that can talk, or a compiler of grammars: the stand-in is and has neither.
_NEEDS_A_MODEL = (
    "test_gives_each_beam_whole_and_the_best_first",
    "test_never_occur_whatever_tokens_would_spell_them",
    "test_no_part_of_one_is_sent_before_it_is_complete",
    "test_end_every_beam_by_itself",
    "test_discourage_what_was_said",
    "test_json_conforms_to_its_schema",
    "test_the_whole_answer_matches_a_regex",
    "test_the_answer_follows_a_grammar",
)


@contextmanager
def serving(checkpoint: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """Runs a server, and gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(Path(sys.executable).with_name("mistralchat")), "serve", "--executor", "trtllm"]
    described = ["--model", str(checkpoint), "--listen", target, "--trtllm.context-length", "2048"]
    variables = os.environ | {"PYTHONPATH": str(_STAND_IN)} | environment
    with subprocess.Popen([*command, *described, *arguments], env=variables) as server:
        try:
            yield target
        finally:
            server.terminate()


def test_conformance_as_far_as_it_can(checkpoint: Path) -> None:
    beams = ("--trtllm.max-beam-width", "4")
    with serving(checkpoint, *beams, STAND_IN_VERSION="1.4.0rc1") as target:
        with ChatClient(target) as client:
            client.wait_until_serving(_START_SECONDS)
        suite = [sys.executable, "-m", "pytest", str(_ROOT / "tests" / "conformance"), "-q"]
        chosen = ["-p", "no:cacheprovider", "-k", " and ".join(f"not {name}" for name in _NEEDS_A_MODEL)]
        done = subprocess.run(
            [*suite, *chosen],
            env=os.environ | {"MISTRALCHAT_CONFORMANCE_TARGET": target},
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )
    assert done.returncode == 0, done.stdout[-4_000:]


def test_the_death_of_the_engine_ends_open_calls_as_unavailable(checkpoint: Path, tmp_path: Path) -> None:
    death = tmp_path / "death"
    with serving(checkpoint, STAND_IN_DEATH=str(death)) as target, ChatClient(target) as client:
        client.wait_until_serving(_START_SECONDS)
        stream = client.chat("one two one two", max_completion_tokens=1_500, min_tokens=1_500, timeout=60)
        next(stream)
        death.touch()
        with pytest.raises(Unavailable):
            stream.read()
        death.unlink()
        # It is started again.
        client.wait_until_serving(_START_SECONDS)
        again = client.chat("one two one two", max_completion_tokens=5, timeout=60)
        again.read()
        assert again.usage is not None


def test_what_the_start_up_proof_refuses_is_told_and_refused(checkpoint: Path) -> None:
    allowed = ("--trtllm.sampler", "TorchSampler", "--trtllm.allow-unsupported", "repetition_penalty")
    with serving(checkpoint, *allowed) as target, ChatClient(target) as client:
        model = client.wait_until_serving(_START_SECONDS)
        reasons = {each.name: each.reason for each in model.unsupported_parameters}
        assert "accepts it and ignores it" in reasons["repetition_penalty"]
        assert "repetition_penalty" not in model.supported_parameters


def test_a_server_whose_engine_ignores_a_promise_does_not_start(checkpoint: Path) -> None:
    command = [str(Path(sys.executable).with_name("mistralchat")), "serve", "--executor", "trtllm"]
    done = subprocess.run(
        [*command, "--model", str(checkpoint), "--listen", "127.0.0.1:0", "--trtllm.sampler", "TorchSampler"],
        env=os.environ | {"PYTHONPATH": str(_STAND_IN)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "repetition_penalty: TensorRT-LLM accepts it and ignores it" in done.stderr
    assert "Traceback" not in done.stderr
