"""The command `mistralchat engines`: lists, checks and prepares recipes."""

import argparse
import logging
import sys

from rich.console import Console
from rich.table import Table

from ..executor.seam import StartError
from . import recipe as recipes
from .arithmetic import CONVERSATIONS, GIB
from .prepare import prepare
from .recipe import Recipe, RecipeError


def main(argv: list[str]) -> int:
    """Runs the command. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    console = Console()
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        match arguments.action:
            case "list":
                _list(console)
            case "check":
                chosen = recipes.names() if arguments.all else [arguments.recipe]
                # One that fails must not hide another that fails.
                results = [_check(console, errors, name) for name in chosen]
                return 0 if all(results) else 1
            case "prepare":
                name, recipe = recipes.load(arguments.recipe)
                path = prepare(name, recipe, lambda line: errors.print(line, style="dim", markup=False))
                console.print(f"{path}", soft_wrap=True, highlight=False, markup=False)
                errors.print(f"ready: mistralchat serve --engine {arguments.recipe}", markup=False)
    except (RecipeError, StartError) as error:
        errors.print(f"mistralchat engines: {error}", markup=False)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mistralchat engines", description="Recipes: what a deployment target runs, and how."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="the recipes that come with the server")
    check = actions.add_parser("check", help="validate a recipe and show how its memory is spent")
    which = check.add_mutually_exclusive_group(required=True)
    which.add_argument("recipe", nargs="?", metavar="NAME|FILE")
    which.add_argument("--all", action="store_true", help="all that come with the server")
    ready = actions.add_parser("prepare", help="download the model and quantize it if the recipe says so")
    ready.add_argument("recipe", metavar="NAME|FILE")
    return parser


def _list(console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "executor", "weights", "device", "what it is for"):
        table.add_column(heading, overflow="fold")
    for name in recipes.names():
        _, recipe = recipes.load(name)
        table.add_row(name, recipe.executor, recipe.weights, _device(recipe), recipe.summary)
    console.print(table)


def _check(console: Console, errors: Console, name: str) -> bool:
    try:
        name, recipe = recipes.load(name)
    except RecipeError as error:
        errors.print(f"{error}", markup=False)
        return False
    console.print(_account(name, recipe))
    console.print()
    if recipe.budget.conversations(recipe.context_length) == 0:
        errors.print(
            f"{name}: no conversation of {recipe.context_length:,} tokens fits; it would need "
            f"{_gib(recipe.budget.needed(recipe.context_length))} of memory on each device",
            markup=False,
        )
        return False
    return True


def _account(name: str, recipe: Recipe) -> Table:
    """How the memory of each device is spent."""
    budget = recipe.budget
    each = " on each device" if recipe.device.count > 1 else ""
    table = Table(
        title=f"{name}: {_device(recipe)}", title_justify="left", box=None, show_header=False, pad_edge=False
    )
    table.add_column("what")
    table.add_column("how much", justify="right")
    table.add_column("how", style="dim")
    table.add_row("memory" + each, _gib(budget.memory), "")
    table.add_row(
        "weights", _gib(budget.weights), f"{recipe.shape.parameters:,} parameters in {recipe.weights}"
    )
    table.add_row("engine and activations", _gib(budget.overhead), "an estimate")
    table.add_row("KV cache", _gib(budget.kv_cache), f"{budget.kv_tokens:,} tokens")
    table.add_row("  a token", f"{budget.kv_per_token:,} bytes", f"in {recipe.kv_cache}{each}")
    for tokens in CONVERSATIONS:
        count = f"{budget.conversations(tokens):,}" if tokens <= recipe.context_length else "none"
        table.add_row(f"  conversations of {tokens:,} tokens", count, "at the same time")
    table.add_row("left", _gib(budget.left), "")
    return table


def _device(recipe: Recipe) -> str:
    count = recipe.device.count
    return recipe.device.name if count == 1 else f"{count} x {recipe.device.name}"


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f} GiB"
