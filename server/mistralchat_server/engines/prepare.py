"""Makes the model of a recipe ready: downloads its checkpoint, quantizes it where the recipe says so."""

import json
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from ..executor.seam import StartError
from .arithmetic import Shape
from .recipe import Recipe, checkpoint_path, model_path


def prepare(name: str, recipe: Recipe, say: Callable[[str], None]) -> Path:
    """The path of the model, which is complete. Raises `StartError` or `RecipeError`."""
    target = model_path(name, recipe)
    if recipe.checkpoint.repository is None or (recipe.quantization is not None and target.is_dir()):
        return target
    # Here and not above: a model that is ready needs neither.
    from .download import download

    checkpoint = checkpoint_path(recipe.checkpoint)
    room = 0 if recipe.quantization is None else recipe.shape.weight_bytes(recipe.weights)
    download(recipe.checkpoint, checkpoint, room, say)
    _compare_shape(checkpoint, recipe)
    if recipe.quantization is not None:
        from .quantize import quantize

        target.parent.mkdir(parents=True, exist_ok=True)
        quantize(checkpoint, target, recipe.quantization, say)
    return target


def _compare_shape(checkpoint: Path, recipe: Recipe) -> None:
    """The recipe's arithmetic holds for the model that it describes only."""
    path = checkpoint / "config.json"
    try:
        found = Shape.of_config(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, ValidationError) as error:
        raise StartError(f"{path} does not describe a model as the recipe does.") from error
    for key, wanted in recipe.shape:
        if (value := getattr(found, key)) != wanted:
            raise StartError(f"{path} says {key} {value}, where the recipe says {wanted}: another model.")
