"""The server's settings: a YAML file, overridden by the environment, overridden by flags."""

import argparse
import sys
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from .admission.options import AdmissionOptions
from .engines import recipe as recipes
from .executor.openvino.options import OpenVINOOptions
from .executor.orders import ExecutorName, ExecutorSettings
from .executor.replay import ReplayOptions
from .executor.trtllm.options import TensorRTLLMOptions
from .rpc.limits import Limits
from .security.addresses import is_address
from .security.options import Access, JWTOptions, TLSOptions


class Settings(BaseSettings):
    """Everything that an operator can set. Each is a flag, and an environment variable MISTRALCHAT_…."""

    model_config = SettingsConfigDict(
        env_prefix="MISTRALCHAT_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    engine: str | None = Field(
        None,
        description="A recipe (see `mistralchat engines list`) or its file: supplies the executor, the model "
        "and the executor's settings, where nothing else does.",
    )
    executor: ExecutorName = Field(
        "openvino", description="What generates: trtllm on NVIDIA GPUs, openvino on a CPU, or replay."
    )
    model: str | None = Field(
        None,
        description="A GGUF file, a directory in OpenVINO's format (for trtllm: Hugging Face's), or the id "
        "of a Hugging Face repository. The replay executor needs a tokenizer only, and has one of its own.",
    )
    model_name: str | None = Field(None, description="What GetModel calls the model; default: as its files.")
    listen: str = Field(
        "127.0.0.1:50051", description="HOST:PORT, port 0 takes a free one; or unix:PATH for a socket."
    )
    token_listen: str | None = Field(
        None,
        description="A second address for the gateway's token-level service, which then is not at the "
        "first: without TLS and credentials, since the gateway has none to give.",
    )
    insecure_listen: bool = Field(
        False,
        description="Listen where other machines reach it even without TLS or credentials: what is "
        "between them and the server protects it.",
    )
    tls: TLSOptions = Field(TLSOptions(), description="Encryption, and callers' certificates.")
    keys: Path | None = Field(
        None,
        description="A file of keys that callers must send one of, made by `mistralchat keys new`. It is "
        "read again when it changes.",
    )
    jwt: JWTOptions = Field(JWTOptions(), description="JSON Web Tokens that callers may send instead.")
    access: Access = Field(
        {},
        description="Which services (chat, tokens) an identity may call: key:NAME, jwt:SUBJECT, cert:NAME; "
        "key:* and the like, and * for all others. Without any, all may call all.",
    )
    limits: Limits = Field(Limits(), description="Bounds on connections and messages.")
    max_open_calls: int = Field(1_024, ge=1, description="Calls that run or wait at once; more are refused.")
    grace_seconds: float = Field(30.0, ge=0, description="What open calls are given to end at a shutdown.")
    reader_timeout_seconds: float = Field(
        60.0, ge=0, description="A caller that takes nothing for so long loses its stream; 0 is never."
    )
    step_timeout_seconds: float = Field(
        120.0,
        ge=1,
        description="The longest that one step of the executor may take, such as a piece of a long prompt; "
        "after that it is killed and started again. Loading the model is not a step.",
    )
    reflection: bool | None = Field(
        None,
        description="Whether grpcurl and the like may ask for the contract; default: where only this "
        "machine can.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level logged.")
    admission: AdmissionOptions = Field(
        AdmissionOptions(), description="Whom the server answers when it is asked for too much."
    )
    trtllm: TensorRTLLMOptions = Field(
        TensorRTLLMOptions(), description="Settings of the TensorRT-LLM executor."
    )
    openvino: OpenVINOOptions = Field(OpenVINOOptions(), description="Settings of the OpenVINO executor.")
    replay: ReplayOptions = Field(ReplayOptions(), description="Settings of the replay executor.")

    @field_validator("listen", "token_listen")
    @classmethod
    def _is_address(cls, listen: str | None) -> str | None:
        if listen is not None and not is_address(listen):
            raise ValueError("must be HOST:PORT, for example 127.0.0.1:50051, or unix:PATH")
        return listen

    @model_validator(mode="after")
    def _is_whole(self) -> "Settings":
        if problem := self.tls.problem() or self.jwt.problem():
            raise ValueError(problem)
        if self.access and self.keys is None and self.jwt.jwks is None and self.tls.client_ca is None:
            raise ValueError("access needs callers that are known: give keys, jwt or tls.client_ca")
        return self

    @model_validator(mode="after")
    def _has_model(self) -> "Settings":
        if self.executor != "replay" and self.model is None:
            raise ValueError(f"the {self.executor} executor needs a model: give one with --model")
        return self

    def executor_settings(self, model: Path | None) -> ExecutorSettings:
        """What the executor process gets of the settings, with the place of the model's files."""
        return ExecutorSettings(
            executor=self.executor,
            model=model,
            trtllm=self.trtllm,
            openvino=self.openvino,
            replay=self.replay,
            log_level=self.log_level,
        )

    @classmethod
    def from_command_line(cls, argv: list[str]) -> "Settings":
        """Reads all sources. Wrong ones are named on standard error, and the program ends with code 2."""
        before = argparse.ArgumentParser(add_help=False)
        before.add_argument("--config", type=Path, metavar="FILE")
        known, rest = before.parse_known_args(argv)
        try:
            return _layered(known.config, rest)()
        except ValidationError as error:
            for problem in error.errors():
                place = ".".join(str(part) for part in problem["loc"])
                print(f"mistralchat serve: {place + ': ' if place else ''}{_plain(problem)}", file=sys.stderr)  # noqa: T201
        except (SettingsError, OSError, ValueError) as error:
            print(f"mistralchat serve: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)


class _RecipeSource(PydanticBaseSettingsSource):
    """What the recipe supplies that the other sources, which come first, have named."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        before = self.current_state
        if not before.get("engine"):
            return {}
        name, recipe = recipes.load(before["engine"])
        settings = recipe.settings()
        if before.get("model") is None:
            settings["model"] = str(recipes.ready_model(name, recipe))
        return settings


def _plain(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "there is no such setting"
    given = "" if isinstance(problem["input"], dict | Settings) else f", not {problem['input']!r}"
    return f"{problem['msg'].removeprefix('Value error, ')}{given}"


def _require_mapping(config: Path) -> None:
    if not config.is_file():
        raise ValueError(f"--config {config}: there is no such file")
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {config} is not YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"--config {config} must hold settings by name, not a {type(content).__name__}")


def _layered(config: Path | None, argv: list[str]) -> type[Settings]:
    if config is not None:
        _require_mapping(config)

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            flags: CliSettingsSource[Any] = CliSettingsSource(
                settings_cls,
                cli_parse_args=argv,
                cli_prog_name="mistralchat serve",
                cli_kebab_case=True,
                cli_implicit_flags=True,
                cli_hide_none_type=True,
                cli_avoid_json=True,
                cli_use_class_docs_for_groups=False,
            )
            recipe = _RecipeSource(settings_cls)
            if config is None:
                return flags, env_settings, recipe
            return flags, env_settings, YamlConfigSettingsSource(settings_cls, config), recipe

    Layered.__doc__ = "Serves chat over gRPC. --config FILE reads these settings from a YAML file."
    return Layered
