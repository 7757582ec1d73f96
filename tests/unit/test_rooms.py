"""The rooms of the server, and which of them may know which."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mistralchat_server

_SERVER = Path(mistralchat_server.__file__).parent
#: What puts the rooms together.
_WIRING = {"app", "gateway", "listeners", "settings", "siblings", "supervisor"}
_ROOMS = {"admission", "executor", "rpc", "security", "text"}
#: What a room must not know, not even through others: all but `rpc` know none of the others.
_MUST_NOT_KNOW = {room: _WIRING | (_ROOMS - {room} if room != "rpc" else set()) for room in sorted(_ROOMS)}
#: All that stands on the front end's side of the executor.
_CLIENT_SIDE = {"client", "messages", "stream", "seam"}
#: Of those rooms, the ones that may use a library.
_LIBRARIES = {
    "grpc": {"rpc", "security"},
    "jwt": {"security"},
    "cryptography": {"security"},
    "tokenizers": {"text"},
    "transformers": {"text"},
    "openvino": {"executor"},
    "openvino_genai": {"executor"},
    "tensorrt_llm": {"executor"},
}


def _files() -> list[Path]:
    return sorted(path for path in _SERVER.rglob("*.py") if "__pycache__" not in path.parts)


def _imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in it, `mistralchat_server.` left out."""
    package = ["mistralchat_server", *path.relative_to(_SERVER).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                modules = [name.name for name in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package[: len(package) - level + 1] if level else []
                origin = ".".join([*base, *([module] if module else [])])
                modules = [f"{origin}.{name.name}" for name in names]
            case _:
                continue
        yield from (module.removeprefix("mistralchat_server.") for module in modules)


def _room(path: Path) -> str:
    return path.relative_to(_SERVER).parts[0].removesuffix(".py")


_IMPORTS = [(path, module) for path in _files() for module in _imports(path)]


def _file_of(module: str) -> Path | None:
    """The file of the server that a full name leads to."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        stem = _SERVER.joinpath(*parts[:length])
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return file
    return None


def _known_to(room: str) -> dict[str, str]:
    """Rooms that a room knows, itself or through others, each with an import that leads there."""
    todo = [path for path in _files() if _room(path) == room]
    seen = set(todo)
    known: dict[str, str] = {}
    while todo:
        path = todo.pop()
        for file in {_file_of(module) for other, module in _IMPORTS if other == path} - {None}:
            assert file is not None
            known.setdefault(_room(file), f"{path.relative_to(_SERVER)} -> {file.relative_to(_SERVER)}")
            if file not in seen:
                seen.add(file)
                todo.append(file)
    return known


@pytest.mark.parametrize(("room", "forbidden"), _MUST_NOT_KNOW.items())
def test_arrows_between_rooms_run_one_way(room: str, forbidden: set[str]) -> None:
    known = _known_to(room)
    assert room in known
    assert {other: how for other, how in known.items() if other in forbidden} == {}


def test_only_the_client_side_of_the_executor_is_known_to_rpc() -> None:
    known = {
        module.split(".")[1]
        for path, module in _IMPORTS
        if _room(path) == "rpc" and module.startswith("executor.")
    }
    assert known <= _CLIENT_SIDE
    assert known


@pytest.mark.parametrize(("library", "rooms"), _LIBRARIES.items())
def test_a_library_stays_in_its_room(library: str, rooms: set[str]) -> None:
    users = {_room(path) for path, module in _IMPORTS if module.partition(".")[0] == library}
    assert users & _MUST_NOT_KNOW.keys() <= rooms


def test_the_parser_of_imports_sees_them_all() -> None:
    seen = {(path.relative_to(_SERVER).as_posix(), module) for path, module in _IMPORTS}
    assert ("app.py", "executor.child.ExecutorProcess") in seen
    assert ("rpc/chat.py", "rpc.rules") in seen
    assert ("executor/messages.py", "msgspec") in seen
    # Inside a function.
    assert ("executor/process.py", "executor.openvino.executor.OpenVINOExecutor") in seen


def _loaded(*modules: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after these imports."""
    program = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)
    return set(ended.stdout.decode().split())


def test_the_front_end_never_imports_an_engine() -> None:
    loaded = _loaded("mistralchat_server.app")
    assert "grpc" in loaded
    assert loaded.isdisjoint({"openvino", "openvino_genai", "tensorrt_llm", "torch", "gguf"})


@pytest.mark.parametrize(
    "module",
    [
        "mistralchat_server.executor.process",
        "mistralchat_server.executor.replay",
        "mistralchat_server.executor.openvino.executor",
    ],
)
def test_the_executor_process_never_imports_what_is_the_front_ends(module: str) -> None:
    loaded = _loaded("mistralchat_server.executor.process", module)
    assert "msgspec" in loaded
    assert loaded.isdisjoint({"grpc", "transformers", "tokenizers", "mistralchat"})


def test_the_executor_process_imports_no_engine_before_its_orders() -> None:
    assert _loaded("mistralchat_server.executor.process").isdisjoint({"openvino", "openvino_genai", "gguf"})
