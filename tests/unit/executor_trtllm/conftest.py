"""The executor on a stand-in of the library, in the version and mode that a test asks for.

The stand-in (`stand_in/`) is written from the library's public sources: it shows what reaches the
library, and proves nothing about the engine.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mistralchat_server.executor.messages import Output, Request
from mistralchat_server.executor.seam import RequestError, StepResult
from mistralchat_server.executor.trtllm.options import TensorRTLLMOptions

_STAND_IN = Path(__file__).with_name("stand_in")
_ENGINE_MODULES = ("executor", "sampling", "constraints")
#: Of Mistral's shape, and small.
CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
    "max_position_embeddings": 4096,
}
TEMPLATE = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{{ m['content'] + ' ' }}{% endfor %}"
)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint by its files, with a byte-level tokenizer; its weights are empty."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["one two three four five six seven eight"] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    described = {**special, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": tokenizer.get_vocab_size()}))
    (folder / "model.safetensors").touch()
    return folder


class Engine:
    """An executor, the stand-in under it, and a way to wait for whole answers."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.llm = sys.modules["tensorrt_llm.llm"].instances()[-1]

    @property
    def last(self) -> Any:
        """What the library was asked for last."""
        return self.llm.received[-1]

    def submit(self, **parameters: Any) -> Request:
        described: dict[str, Any] = {
            "id": 1,
            "prompt_token_ids": self.llm.tokenizer.encode("one two one two one"),
            "max_new_tokens": 8,
            "stop_token_ids": (),
        }
        request = Request(**(described | parameters))
        self.executor.submit(request)
        return request

    def outputs(self, **parameters: Any) -> list[Output]:
        """Everything that one request produces, in the order of arrival."""
        self.submit(**parameters)
        found: list[Output] = []

        def collect(result: StepResult) -> bool:
            found.extend(result.outputs)
            return any(output.last for output in result.outputs)

        self.until(collect)
        return found

    def failure(self, **parameters: Any) -> RequestError:
        self.submit(**parameters)
        found: list[RequestError] = []

        def collect(result: StepResult) -> bool:
            found.extend(error for _, error in result.failures)
            return bool(found)

        self.until(collect)
        return found[0]

    def tokens(self, **parameters: Any) -> list[int]:
        return [token for output in self.outputs(**parameters) for token in output.token_ids]

    def text(self, **parameters: Any) -> str:
        return str(self.llm.tokenizer.decode(self.tokens(**parameters)))

    def until(self, done: Callable[[Any], Any], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not done(self.executor.step()):
            assert time.monotonic() < deadline, "the engine does not get there"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> Iterator[Callable[..., Engine]]:
    """Starts an executor; keyword arguments in capitals are the stand-in's environment."""
    monkeypatch.syspath_prepend(str(_STAND_IN))
    # So that the variables which the executor sets do not outlive the test.
    for name in ("TRTLLM_NO_USAGE_STATS", "TLLM_WORKER_USE_SINGLE_PROCESS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    engines: list[Engine] = []

    def begin(model: Path = checkpoint, version: str = "1.2.1", **settings: Any) -> Engine:
        _forget_library()
        environment = {name: value for name, value in settings.items() if name.isupper()}
        monkeypatch.setenv("STAND_IN_VERSION", version)
        for name, value in environment.items():
            monkeypatch.setenv(f"STAND_IN_{name}", value)
        options = {name: value for name, value in settings.items() if not name.isupper()}
        from mistralchat_server.executor.trtllm.start import start

        executor = start(
            model, TensorRTLLMOptions(**({"context_length": 2_048, "max_batch_size": 8} | options))
        )
        engines.append(Engine(executor))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.executor.close()
    _forget_library()


def _forget_library() -> None:
    engine_modules = {f"mistralchat_server.executor.trtllm.{name}" for name in _ENGINE_MODULES}
    for name in list(sys.modules):
        if name.partition(".")[0] in ("tensorrt_llm", "torch") or name in engine_modules:
            del sys.modules[name]
