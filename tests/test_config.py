"""Where the configuration is found, its defaults, and what its mistakes are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from doctor.unprivileged import unprivileged

from atenea.config import Config, load_config
from atenea.errors import ConfigError, ExitCode, UsageError
from atenea.jobfile import JobKeys
from atenea.places import find_places


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, toml: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(toml)
    return path


def mistakes(folder: Path, toml: str) -> list[str]:
    """The mistakes of a configuration."""
    file = write(folder / "atenea.toml", toml)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert caught.value.subject == str(file)
    assert caught.value.exit_code is ExitCode.USAGE
    return list(caught.value.mistakes)


def priority(config: Config) -> int | None:
    """What tells one configuration of these tests from another."""
    return config.presets["which"].priority


# Where it is found


def test_without_a_file_everything_lies_under_the_working_directory(home: Path) -> None:
    if os.path.exists("/etc/atenea/atenea.toml"):
        pytest.skip("this machine has a configuration of its own")
    config = load_config()
    assert config.file is None
    assert dict(config.paths) == {
        name: home / name for name in ("inbox", "outbox", "state", "cache", "assets", "plugins", "models")
    }
    assert (config.tts.plugin, config.audio.plugin, config.render.plugin) == ("espeak", "wav", "preview")
    assert config.post.plugins == ()
    assert config.jobs == home / "state/jobs"


def test_the_promised_defaults(home: Path) -> None:
    config = load_config(write(home / "atenea.toml", ""))
    assert (config.watch.settle_seconds, config.watch.rescan_seconds, config.watch.polling) == (1.0, 5.0, False)
    assert config.outbox.progress_files is False
    assert config.workers.cancel_seconds == 10.0
    assert config.workers.cpu == os.cpu_count()
    assert config.retry.worker_deaths == 3


def test_the_named_file_comes_first_then_the_environment_then_the_working_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write(home / name, f"[presets.which]\npriority = {n}") for n, name in enumerate(("a.toml", "b.toml"))]
    write(home / "etc/atenea.toml", "[presets.which]\npriority = 2")
    assert priority(load_config()) == 2
    monkeypatch.setenv("ATENEA_CONFIG", str(files[1]))
    assert priority(load_config()) == 1
    assert priority(load_config(files[0])) == 0
    monkeypatch.setenv("ATENEA_CONFIG", "")
    assert priority(load_config()) == 2


def test_a_file_named_by_the_environment_must_be_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / "etc/atenea.toml", "")
    monkeypatch.setenv("ATENEA_CONFIG", "gone.toml")
    with pytest.raises(ConfigError, match=r"^gone\.toml: cannot be read: No such file or directory; see --config$"):
        load_config()


def closed(folder: Path) -> Path:
    """A folder that only its owner may enter."""
    folder.mkdir()
    folder.chmod(0o700)
    folder.parent.chmod(0o755)
    return folder


def test_a_working_directory_that_may_not_be_entered_has_no_configuration(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atenea.places.SERVICE_FILE", Path("/none.toml"))
    file = write(closed(home / "closed") / "etc/atenea.toml", "[presets.which]\npriority = 1")
    monkeypatch.chdir(file.parent.parent)
    assert priority(load_config()) == 1
    with unprivileged():
        config = load_config()
    assert (config.file, config.paths.inbox) == (None, home / "closed/inbox")


def test_a_configuration_of_the_machine_that_may_not_be_read_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = closed(home / "closed") / "atenea.toml"
    monkeypatch.setattr("atenea.places.SERVICE_FILE", file)
    assert load_config().file is None
    told = f"^{file}: cannot be read: Permission denied; see --config$"
    with unprivileged(), pytest.raises(ConfigError, match=told):
        load_config()


def test_a_working_directory_that_is_gone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atenea.places.SERVICE_FILE", Path("/none.toml"))
    (home / "gone").mkdir()
    monkeypatch.chdir(home / "gone")
    (home / "gone").rmdir()
    told = "^the working directory: No such file or directory; change to another, or name --config$"
    with pytest.raises(UsageError, match=told):
        load_config()
    monkeypatch.chdir(home)


# Who could have written it


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["file", "folder", "folder as /tmp"])
def test_a_strangers_configuration_is_refused(home: Path, what: str) -> None:
    file = write(home / "etc/atenea.toml", "[presets.which]\npriority = 1")
    path = file if what == "file" else file.parent
    file.parent.chmod(0o1777 if what == "folder as /tmp" else 0o755)
    os.chown(path, 54321, 0)
    told = (
        f"{path}: belongs to user 54321, who is neither root, nor the user running atenea, nor the owner of its code;"
        f" if you trust what is in it: chown root {path}"
    )
    for read in (load_config, find_places):
        with pytest.raises(ConfigError) as caught:
            read(file)
        assert (str(caught.value), caught.value.exit_code) == (told, ExitCode.USAGE)
    os.chown(path, 0, 0)
    assert (priority(load_config(file)), find_places(file).paths.state) == (1, home / "etc/state")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_roots_configuration_is_everybodys(home: Path) -> None:
    write(home / "etc/atenea.toml", "[presets.which]\npriority = 1")
    file = Path("etc/atenea.toml")  # the folders above are closed
    home.chmod(0o755)
    with unprivileged():
        assert (priority(load_config(file)), find_places(file).paths.state) == (1, home / "etc/state")


@pytest.mark.parametrize("mode", [0o777, 0o757])
def test_a_configuration_in_a_folder_that_everybody_may_change_is_refused(home: Path, mode: int) -> None:
    file = write(home / "etc/atenea.toml", "")
    file.parent.chmod(mode)
    for read in (load_config, find_places):
        with pytest.raises(ConfigError) as caught:
            read(file)
        folder = file.parent
        assert str(caught.value) == f"{folder}: can be changed by every user; protect it: chmod go-w {folder}"


def test_in_a_folder_as_tmp_everybody_has_a_configuration(home: Path) -> None:
    file = write(home / "etc/atenea.toml", "[presets.which]\npriority = 1")
    file.parent.chmod(0o1777)
    assert (priority(load_config(file)), find_places(file).paths.state) == (1, home / "etc/state")


def test_a_folder_is_no_configuration(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory; see --config$"):
        load_config(home)


def test_relative_paths_are_relative_to_the_file(home: Path) -> None:
    file = write(home / "conf/atenea.toml", '[paths]\ninbox = "../in"\noutbox = "/srv/out"\n')
    config = load_config(Path("conf/atenea.toml"))
    assert config.file == file
    assert config.paths.inbox == home / "in"
    assert config.paths.outbox == Path("/srv/out")
    assert config.paths.state == home / "conf/state"


def test_options_stand_under_the_plugins_name(home: Path) -> None:
    file = write(
        home / "atenea.toml",
        '[tts]\nplugin = "openai"\n[tts.openai]\nvoice = "nova"\n[tts.espeak]\nrate = 99\n'
        '[post]\nplugins = ["poster"]\n[post.poster]\nquality = 50\n'
        '[presets.news]\navatar = "anchor.png"\n[presets.news.render]\nfps = 30\n',
    )
    config = load_config(file)
    assert config.tts.options("openai") == {"voice": "nova"}
    assert config.tts.options("espeak") == {"rate": 99}
    assert config.tts.options("other") == {}
    assert config.post.plugins == ("poster",)
    assert config.post.model_extra == {"poster": {"quality": 50}}
    assert config.presets["news"].avatar == "anchor.png"
    assert config.presets["news"].render.options == {"fps": 30}


def test_a_configuration_reaches_a_worker_as_json(home: Path) -> None:
    config = load_config(write(home / "atenea.toml", '[tts.openai]\nvoice = "nova"\n[presets.news]\npriority = 3\n'))
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("toml", "everywhere", "in_preset"),
    [
        ("", True, True),
        ("[post]\nplugins = ['poster']", True, True),
        ("[post.provenance]\ncertificate = '/c'\nprivate_key = '/k'", True, True),
        ("[post.provenance]\nenabled = false", False, False),
        ("[presets.a.post.provenance]\nenabled = false", True, False),
        ("[post.provenance]\nenabled = false\n[presets.a.post.provenance]\nenabled = true", False, True),
    ],
)
def test_videos_are_marked_unless_it_is_switched_off(
    home: Path, monkeypatch: pytest.MonkeyPatch, toml: str, everywhere: bool, in_preset: bool
) -> None:
    config = load_config(write(home / "atenea.toml", toml))
    preset = config.presets.get("a", JobKeys())
    assert (config.post.marked(), config.post.marked(preset)) == (everywhere, in_preset)
    monkeypatch.setattr("atenea.config.find_spec", lambda _name: None)  # the extra is not installed
    assert config.post.marked() is False
    assert config.post.marked(preset) is ("enabled = true" in toml)


def test_a_path_may_lie_among_the_credentials_of_the_service(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = "[post.provenance]\ncertificate = '/etc/c.pem'\nprivate_key = '$CREDENTIALS_DIRECTORY/key.pem'\n"
    file = write(home / "atenea.toml", toml + "[presets.a.post.x]\nlist = ['$CREDENTIALS_DIRECTORY/']\n")
    assert (load_config(file).post.model_extra or {})["provenance"]["private_key"] == "$CREDENTIALS_DIRECTORY/key.pem"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/atenea.service")
    config = load_config(file)
    assert config.post.model_extra == {
        "provenance": {"certificate": "/etc/c.pem", "private_key": "/run/credentials/atenea.service/key.pem"}
    }


# Mistakes


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("[pathz]", "pathz: unknown key; did you mean 'paths'?"),
        ("[paths]\nimbox = 'x'", "paths.imbox: unknown key; did you mean 'inbox'?"),
        ("[watch]\nsetle_seconds = 1", "watch.setle_seconds: unknown key; did you mean 'settle_seconds'?"),
        ("[outbox]\nfoo = 1", "outbox.foo: unknown key; valid: progress_files"),
        ("[presets.a]\nprio = 1", "presets.a.prio: unknown key; did you mean 'priority'?"),
        (
            "file = '/x'",
            "file: unknown key; valid: audio, limits, outbox, paths, post, presets, render, retention, retry, tts, "
            "watch, workers",
        ),
        (
            "overrides = {}",
            "overrides: unknown key; valid: audio, limits, outbox, paths, post, presets, render, retention, retry, "
            "tts, watch, workers",
        ),
        ("[paths]\ninbox = 3", "paths.inbox: should be a valid string, but is 3"),
        ("paths = 3", "paths: should be a table, but is 3"),
        ("presets = 3", "presets: should be a table, but is 3"),
        ("presets.a = 3", "presets.a: should be a table, but is 3"),
        ("[watch]\npolling = 1", "watch.polling: should be a valid boolean, but is 1"),
        ("[watch]\nsettle_seconds = '1'", 'watch.settle_seconds: should be a valid number, but is "1"'),
        ("[watch]\nsettle_seconds = -1", "watch.settle_seconds: should be greater than or equal to 0, but is -1"),
        ("[watch]\nsettle_seconds = inf", "watch.settle_seconds: should be a finite number, but is Infinity"),
        ("[watch]\nrescan_seconds = 0", "watch.rescan_seconds: should be greater than 0, but is 0"),
        ("[watch]\nrescan_seconds = nan", "watch.rescan_seconds: should be less than or equal to 3600, but is NaN"),
        ("[workers]\ngpu = 0", "workers.gpu: should be greater than or equal to 1, but is 0"),
        ("[workers]\ncpu = 1.5", "workers.cpu: should be a valid integer, but is 1.5"),
        ("[retry]\nfactor = 0.5", "retry.factor: should be greater than or equal to 1, but is 0.5"),
        ("[retention]\nmax_gigabytes = 0", "retention.max_gigabytes: should be greater than 0, but is 0"),
        ("[limits]\ntext_characters = 0", "limits.text_characters: should be greater than or equal to 1, but is 0"),
        (
            "[tts]\nvoice = 'nova'",
            'tts.voice: should be a table, with a plugin\'s name, that holds its options, but is "nova"',
        ),
        ("[tts]\nplugin = 3", "tts.plugin: should be a valid string, but is 3"),
        ("[post]\nplugins = 'poster'", 'post.plugins: should be a valid array, but is "poster"'),
        (
            "[post]\nplugins = ['provenance', 'poster']",
            "post.plugins: 'provenance' must be the last one, because a later plugin would break its signature",
        ),
        (
            "[presets.a.post]\nplugins = ['provenance', 'x']",
            "presets.a.post.plugins: 'provenance' must be the last one, "
            "because a later plugin would break its signature",
        ),
        ("[presets.'a/b']", "presets: 'a/b' cannot be the name of a folder; rename the preset"),
        ("[presets.'.a']", "presets: '.a' cannot be the name of a folder; rename the preset"),
        ('[presets."a\\nb"]', "presets: 'a\\nb' cannot be the name of a folder; rename the preset"),
        (
            "[presets.a]\ntext = 'x'\naudio_file = 'y'",
            "presets: a: text and audio_file: only one of them can be spoken; leave one",
        ),
        (
            "[paths]\ninbox = 'same'\noutbox = './x/../same/'",
            "paths.outbox: is the inbox too, or a preset's folder in it, which would take its own answers for jobs",
        ),
        (
            "[paths]\noutbox = 'inbox/news'\n[presets.news]",
            "paths.outbox: is the inbox too, or a preset's folder in it, which would take its own answers for jobs",
        ),
        ("[watch\n", "is not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 7)"),
        ("a = 1\nb = = 2", "is not valid TOML: Invalid value (at line 2, column 5)"),
    ],
)
def test_a_mistake_names_key_or_line_and_the_way_out(home: Path, toml: str, sentence: str) -> None:
    assert mistakes(home, toml) == [sentence]


def test_all_mistakes_are_told_at_once(home: Path) -> None:
    assert mistakes(home, "[watch]\npolling = 3\nfoo = 1\n[workers]\ncpu = 0\n[pathz]\n") == [
        "watch.polling: should be a valid boolean, but is 3",
        "watch.foo: unknown key; valid: polling, rescan_seconds, settle_seconds",
        "workers.cpu: should be greater than or equal to 1, but is 0",
        "pathz: unknown key; did you mean 'paths'?",
    ]


def test_a_configuration_that_is_not_utf8_names_the_line(home: Path) -> None:
    (home / "atenea.toml").write_bytes("[paths]\ninbox = 'für'".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"line 2 is not UTF-8 \(byte 0xfc\); save it as UTF-8$"):
        load_config(home / "atenea.toml")


def test_the_machines_configuration_leaves_paths_to_the_service(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(home / "etc/atenea/atenea.toml", "[paths]\nassets = '/srv/pictures'\nmodels = 'models'\n")
    monkeypatch.setattr("atenea.places.SERVICE_FILE", file)
    assert {name: str(path) for name, path in load_config(file).paths} == {
        "inbox": "/var/lib/atenea/inbox",
        "outbox": "/var/lib/atenea/outbox",
        "state": "/var/lib/atenea/state",
        "cache": "/var/cache/atenea",
        "assets": "/srv/pictures",
        "plugins": "/var/lib/atenea/plugins",
        "models": str(home / "etc/atenea/models"),
    }


def test_a_service_without_a_file_has_systemds_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.path.exists("/etc/atenea/atenea.toml"):
        pytest.skip("this machine has a configuration of its own")
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/atenea")
    paths = load_config().paths
    assert (paths.cache, paths.state) == (Path("/var/cache/atenea"), home / "state")
