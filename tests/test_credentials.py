"""Where secrets come from, and that nobody else may read them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from atenea.credentials import find_secrets, redact
from atenea.errors import ConfigError


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "atenea.toml"


def env_file(config_file: Path, content: str | bytes, mode: int = 0o600) -> Path:
    """Write `atenea.env` beside the configuration."""
    path = config_file.with_name("atenea.env")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def credential(tmp_path: Path, value: str) -> dict[str, str]:
    """A folder of systemd credentials, as the environment names it."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "openai_api_key").write_text(value)
    return {"CREDENTIALS_DIRECTORY": str(folder)}


def test_nowhere_a_secret(config_file: Path) -> None:
    assert find_secrets(config_file, {}) == {}
    assert find_secrets(None, {"OPENAI_API_KEY": "", "CREDENTIALS_DIRECTORY": "/nowhere"}) == {}


def test_the_process_environment_counts_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_secrets(None) == {}
    monkeypatch.setenv("OPENAI_API_KEY", "sk-now")
    assert find_secrets(None) == {"OPENAI_API_KEY": "sk-now"}


def test_the_environment_wins_over_credentials_and_these_over_the_file(config_file: Path, tmp_path: Path) -> None:
    env_file(config_file, "OPENAI_API_KEY=from-file\n")
    assert find_secrets(config_file, {}) == {"OPENAI_API_KEY": "from-file"}
    environment = credential(tmp_path, "from-systemd\n")
    assert find_secrets(config_file, environment) == {"OPENAI_API_KEY": "from-systemd"}
    environment["OPENAI_API_KEY"] = "from-environment\n"
    assert find_secrets(config_file, environment) == {"OPENAI_API_KEY": "from-environment"}


def test_an_empty_credential_counts_as_none(config_file: Path, tmp_path: Path) -> None:
    env_file(config_file, "OPENAI_API_KEY=sk-file")
    assert find_secrets(config_file, credential(tmp_path, "\n")) == {"OPENAI_API_KEY": "sk-file"}


def test_without_a_configuration_file_there_is_none_beside_it(config_file: Path) -> None:
    env_file(config_file, "OPENAI_API_KEY=x")
    assert find_secrets(None, {}) == {}


@pytest.mark.parametrize(
    "content",
    [
        "OPENAI_API_KEY=sk-1",
        "# comment\n\n  OPENAI_API_KEY = sk-1  \r\n",
        "export OPENAI_API_KEY='sk-1'\n",
        '\ufeffOPENAI_API_KEY="sk-1"\n',
    ],
)
def test_the_ways_to_write_the_file(config_file: Path, content: str) -> None:
    env_file(config_file, content)
    assert find_secrets(config_file, {}) == {"OPENAI_API_KEY": "sk-1"}


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o640, 0o620, 0o644, 0o601])
def test_a_file_that_others_may_read_or_change_is_refused(config_file: Path, mode: int) -> None:
    path = env_file(config_file, "OPENAI_API_KEY=sk-1", mode)
    with pytest.raises(ConfigError) as caught:
        find_secrets(config_file, {"OPENAI_API_KEY": "from-environment"})
    assert str(caught.value) == f"{path}: others may read the secrets in it; run: chmod 600 {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_strangers_file_is_refused(config_file: Path) -> None:
    path = env_file(config_file, "OPENAI_API_KEY=sk-1")
    os.chown(path, 54321, 0)
    with pytest.raises(ConfigError) as caught:
        find_secrets(config_file, {})
    assert str(caught.value) == (
        f"{path}: belongs to user 54321, who is neither root, nor the user running atenea, nor the owner of its code;"
        f" if you trust what is in it: chown root {path}"
    )
    os.chown(path, 0, 0)
    assert find_secrets(config_file, {}) == {"OPENAI_API_KEY": "sk-1"}


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_the_owner_alone_is_read(config_file: Path, mode: int) -> None:
    env_file(config_file, "OPENAI_API_KEY=sk-1", mode)
    assert find_secrets(config_file, {}) == {"OPENAI_API_KEY": "sk-1"}


@pytest.mark.parametrize("line", ["sk-naked-secret", "OTHER=sk-naked-secret", b"\xff\xfe=sk-naked-secret"])
def test_a_wrong_line_is_named_by_its_number_and_never_shown(config_file: Path, line: str | bytes) -> None:
    data = line.encode() if isinstance(line, str) else line
    path = env_file(config_file, b"# first\n" + data)
    with pytest.raises(ConfigError) as caught:
        find_secrets(config_file, {})
    assert str(caught.value) == f"{path}: line 2: expected OPENAI_API_KEY=..."


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_named(config_file: Path, make: Callable[[Path], None]) -> None:
    path = config_file.with_name("atenea.env")
    make(path)
    with pytest.raises(ConfigError) as caught:
        find_secrets(config_file, {})
    assert str(caught.value) == f"{path}: is no regular file; write the secrets into one"


def test_a_link_to_a_file_is_followed(config_file: Path, tmp_path: Path) -> None:
    env_file(config_file, "OPENAI_API_KEY=sk-1").rename(tmp_path / "elsewhere")
    config_file.with_name("atenea.env").symlink_to(tmp_path / "elsewhere")
    assert find_secrets(config_file, {}) == {"OPENAI_API_KEY": "sk-1"}


def test_redaction_replaces_every_occurrence() -> None:
    assert redact("a sk-1 b sk-1, k-2", ["sk-1", "k-2"]) == "a [secret] b [secret], [secret]"
    assert redact("nothing here", []) == "nothing here"
