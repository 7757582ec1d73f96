"""What the server shares with TensorRT-LLM must resolve with it, in the versions that are supported."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

#: As the library's own metadata has them. An empty range is one that it leaves open.
TENSORRT_LLM = {
    "1.2.1": {"transformers": "==4.57.3", "numpy": "<2", "protobuf": ">=6.33.5", "grpcio": ""},
    "1.4.0rc1": {
        "transformers": "==5.5.4",
        "numpy": ">=2.0,<2.4",
        "protobuf": ">=6.30.2,<7",
        "grpcio": ">=1.67.1,<2",
    },
}
#: Releases of each package, old and new, that could be chosen.
RELEASES = {
    "transformers": ["4.57.3", "5.5.4"],
    "numpy": ["1.26.4", "2.2.6", "2.3.5"],
    "protobuf": ["6.31.1", "6.33.5", "6.33.6", "7.34.0"],
    "grpcio": ["1.76.0", "1.78.0"],
}


def server_requirements() -> dict[str, list[SpecifierSet]]:
    """Of the client and the server, as pyproject.toml has them."""
    path = Path(__file__).parents[3] / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    found: dict[str, list[SpecifierSet]] = {}
    for line in (*project["dependencies"], *extras["server"], *extras["cli"], *extras["trtllm"]):
        requirement = Requirement(line)
        found.setdefault(requirement.name, []).append(requirement.specifier)
    return found


@pytest.mark.parametrize("version", TENSORRT_LLM)
@pytest.mark.parametrize("package", RELEASES)
def test_some_release_suits_both(version: str, package: str) -> None:
    wanted = [SpecifierSet(TENSORRT_LLM[version][package]), *server_requirements().get(package, [])]
    suitable = [r for r in RELEASES[package] if all(Version(r) in one for one in wanted)]
    assert suitable, f"no release of {package} suits TensorRT-LLM {version} and this server"


def test_the_test_notices_what_cannot_be_resolved() -> None:
    wanted = [SpecifierSet("<6"), SpecifierSet(TENSORRT_LLM["1.2.1"]["protobuf"])]
    assert not [r for r in RELEASES["protobuf"] if all(Version(r) in one for one in wanted)]
