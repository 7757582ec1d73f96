"""The server needs no NVIDIA library to be imported: only what drives the engine itself does."""

import subprocess
import sys

#: Imported by `start` alone, once the executor is asked for; and the counterparts for OpenVINO.
_DRIVERS = ("executor.trtllm.executor", "executor.trtllm.sampling", "executor.trtllm.constraints")
_PROGRAM = f"""
import importlib, pkgutil, sys
for absent in ("tensorrt_llm", "torch", "modelopt", "cuda", "pynvml"):
    sys.modules[absent] = None
import mistralchat_server
names = [m.name for m in pkgutil.walk_packages(mistralchat_server.__path__, "mistralchat_server.")]
assert "mistralchat_server.executor.trtllm.start" in names
for name in names:
    if name.removeprefix("mistralchat_server.") not in {_DRIVERS!r}:
        importlib.import_module(name)
"""


def test_everything_imports_without_the_library() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
