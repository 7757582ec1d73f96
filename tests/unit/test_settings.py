"""Settings: a file, overridden by the environment, overridden by flags; wrong ones are named."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mistralchat_server.settings import Settings

_REPLAY = ["--executor", "replay"]


def _file(path: Path, content: str) -> list[str]:
    file = path / "settings.yaml"
    file.write_text(content, encoding="utf-8")
    return ["--config", str(file)]


def test_flags_override_the_environment_which_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _file(
        tmp_path,
        "executor: replay\nmodel_name: file\nmax_open_calls: 1\ngrace_seconds: 1\n"
        "replay: {context_length: 100}\n",
    )
    monkeypatch.setenv("MISTRALCHAT_MODEL_NAME", "environment")
    monkeypatch.setenv("MISTRALCHAT_MAX_OPEN_CALLS", "2")
    monkeypatch.setenv("MISTRALCHAT_REPLAY__MAX_BATCH_SIZE", "7")
    settings = Settings.from_command_line([*config, "--model-name", "flag", "--replay.max-beam-width", "3"])
    assert settings.executor == "replay"
    assert settings.model_name == "flag"
    assert settings.max_open_calls == 2
    assert settings.grace_seconds == 1
    # Settings of one executor can come from all three.
    replay = settings.replay
    assert (replay.context_length, replay.max_batch_size, replay.max_beam_width) == (100, 7, 3)


def test_defaults_fill_the_rest() -> None:
    settings = Settings.from_command_line(_REPLAY)
    assert settings.listen == "127.0.0.1:50051"
    assert settings.model is None
    assert settings.reflection is None


@pytest.mark.parametrize(
    ("flags", "reflection"), [([], None), (["--reflection"], True), (["--no-reflection"], False)]
)
def test_a_switch_is_a_flag(flags: list[str], reflection: bool | None) -> None:
    assert Settings.from_command_line([*_REPLAY, *flags]).reflection is reflection


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    settings = Settings.from_command_line([*_file(tmp_path, ""), *_REPLAY])
    assert settings.model_dump() == Settings(executor="replay").model_dump()


@pytest.mark.parametrize(
    ("arguments", "environment", "content", "named"),
    [
        (["--max-open-calls", "0"], {}, "", ["max_open_calls", "0"]),
        (["--max-open-calls", "many"], {}, "", ["max_open_calls", "many"]),
        (["--grace-seconds", "-1"], {}, "", ["grace_seconds", "-1"]),
        (["--executor", "gpu"], {}, "", ["executor", "gpu"]),
        (["--listen", "50051"], {}, "", ["listen", "50051"]),
        (["--listen", ":50051"], {}, "", ["listen"]),
        (["--listen", "127.0.0.1:65536"], {}, "", ["listen", "65536"]),
        (["--replay.context-length", "1"], {}, "", ["replay.context_length", "1"]),
        (["--openvino.threads", "-1"], {}, "", ["openvino.threads", "-1"]),
        (["--no-such-flag", "1"], {}, "", ["no-such-flag"]),
        (["--log-level", "LOUD"], {}, "", ["log_level", "LOUD"]),
        ([], {"MAX_OPEN_CALLS": "x"}, "", ["max_open_calls", "x"]),
        ([], {"REPLAY__STEP_SECONDS": "-1"}, "", ["replay.step_seconds", "-1"]),
        ([], {"REPLAY__SPEED": "1"}, "", ["replay.speed", "no such setting"]),
        ([], {"REPLAY": "{nonsense"}, "", ["replay"]),
        ([], {"EXECUTOR": "openvino"}, "", ["openvino", "--model"]),
        ([], {}, "speed: 1", ["speed", "no such setting"]),
        ([], {}, "replay: {speed: 1}", ["replay.speed", "no such setting"]),
        ([], {}, "replay: fast", ["replay", "fast"]),
        ([], {}, "max_open_calls: 0", ["max_open_calls", "0"]),
        pytest.param(
            [], {}, "listen: [", ["settings.yaml"],
        ),
        pytest.param(
            [], {}, "- a list", ["settings.yaml"],
        ),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_and_ends_the_program_with_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    environment: dict[str, str],
    content: str,
    named: list[str],
) -> None:
    monkeypatch.setenv("MISTRALCHAT_EXECUTOR", "replay")
    for name, value in environment.items():
        monkeypatch.setenv(f"MISTRALCHAT_{name}", value)
    with pytest.raises(SystemExit) as caught:
        Settings.from_command_line([*_file(tmp_path, content), *arguments])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert [part for part in named if part not in told] == []
    assert "mistralchat serve" in told


def test_every_wrong_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Settings.from_command_line([*_REPLAY, "--max-open-calls", "0", "--grace-seconds", "-1"])
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all(line.startswith("mistralchat serve: ") for line in told)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing.yaml")
    with pytest.raises(SystemExit) as caught:
        Settings.from_command_line(["--config", missing])
    assert caught.value.code == 2
    assert missing in capsys.readouterr().err


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Settings.from_command_line(["--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    flags = [f"--{name.replace('_', '-')}" for name in Settings.model_fields]
    assert [flag for flag in [*flags, "--config"] if flag not in told] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"tls": {"certificate": "a"}},
        {"tls": {"private_key": "a"}},
        {"tls": {"client_ca": "a"}},
        {"jwt": {"jwks": "a"}},
        {"jwt": {"jwks": "a", "issuer": "b"}},
        {"access": {"*": ["chat"]}},
        {"access": {"*": ["admin"]}, "keys": "a"},
        {"token_listen": "50052"},
    ],
)
def test_security_settings_belong_together(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(executor="replay", **fields)


def test_an_access_table_comes_from_a_file(tmp_path: Path) -> None:
    file = _file(tmp_path, "executor: replay\nkeys: keys\naccess:\n  'key:gateway': [tokens]\n  '*': []\n")
    assert Settings.from_command_line(file).access == {"key:gateway": ["tokens"], "*": []}


@pytest.mark.parametrize(
    "listen", ["unix:/tmp/s", "127.0.0.1:0", "[::1]:50051", "localhost:65535", "0.0.0.0:80"]
)
def test_an_address_is_host_and_port(listen: str) -> None:
    assert Settings(executor="replay", listen=listen).listen == listen


@pytest.mark.parametrize("fields", [{"executor": "openvino"}, {"executor": "replay", "nonsense": 1}])
def test_settings_made_in_a_program_keep_the_rules_too(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**fields)


def test_the_executor_gets_its_part() -> None:
    settings = Settings(executor="replay", log_level="DEBUG", replay={"context_length": 5})
    ordered = settings.executor_settings(Path("model"))
    assert (ordered.executor, ordered.model, ordered.log_level) == ("replay", Path("model"), "DEBUG")
    assert ordered.replay.context_length == 5
