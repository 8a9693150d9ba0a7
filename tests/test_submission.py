"""Files put into an inbox by a command: whole, together, readable for the daemon, and none replaced."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from atenea.errors import MistakesError, UsageError
from atenea.inbox.scan import Candidate, Scanner
from atenea.submission import Submitted, submit_file


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of the user's."""
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder


def write(path: Path, content: str = "hello") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def inside(inbox: Path) -> dict[str, str]:
    """All files below the inbox, hidden ones too."""
    return {str(path.relative_to(inbox)): path.read_text() for path in inbox.rglob("*") if not path.is_dir()}


def found(inbox: Path, presets: frozenset[str] = frozenset()) -> list[Candidate]:
    """The jobs that the daemon finds there."""
    scanner = Scanner(inbox, presets, 0, report=pytest.fail)
    scanner.scan()
    return sorted(scanner.scan().settled, key=lambda candidate: candidate.relative)


def refused(file: Path, inbox: Path) -> str:
    """The sentence with which a file is refused; nothing of it stays."""
    before = inside(inbox)
    with pytest.raises(UsageError) as caught:
        submit_file(file, inbox)
    assert inside(inbox) == before
    assert [path for path in inbox.iterdir() if path.name.startswith(".submit-")] == []
    return str(caught.value)


def test_a_text_is_copied_and_known_by_its_inode(inbox: Path, mine: Path) -> None:
    file = write(mine / "hello.txt")
    submitted = submit_file(file, inbox)
    status = (inbox / "hello.txt").stat()
    assert submitted == Submitted(inbox / "hello.txt", status.st_dev, status.st_ino)
    assert inside(inbox) == {"hello.txt": "hello"}
    assert file.exists()
    assert os.listdir(inbox) == ["hello.txt"]


def test_the_picture_of_the_same_stem_comes_along(inbox: Path, mine: Path) -> None:
    write(mine / "hello.webp", "second")
    write(mine / "hello.jpg", "picture")
    submit_file(write(mine / "hello.txt"), inbox)
    assert inside(inbox) == {"hello.txt": "hello", "hello.jpg": "picture"}
    (candidate,) = found(inbox)
    assert [path for path, _ in candidate.readings] == ["hello.jpg", "hello.txt"]


@pytest.mark.parametrize("taken", ["hello.txt", "hello.toml", "hello.png", "hello", "hello.WEBP"])
def test_a_name_in_use_gets_a_number(inbox: Path, mine: Path, taken: str) -> None:
    write(inbox / taken, "theirs")
    write(mine / "hello.png", "picture")
    file = write(mine / "hello.txt")
    assert submit_file(file, inbox).path == inbox / "hello-2.txt"
    assert submit_file(file, inbox).path == inbox / "hello-3.txt"
    assert inside(inbox) == {taken: "theirs"} | {
        name: text for n in (2, 3) for name, text in ((f"hello-{n}.txt", "hello"), (f"hello-{n}.png", "picture"))
    }


def test_a_dangling_link_is_a_name_in_use(inbox: Path, mine: Path) -> None:
    (inbox / "hello.txt").symlink_to("nowhere")
    assert submit_file(write(mine / "hello.txt"), inbox).path == inbox / "hello-2.txt"


def test_a_job_file_that_names_nothing_beside_it_goes_alone(inbox: Path, mine: Path) -> None:
    toml = "text = 'hi'\navatar = 'in-the-assets.png'\n"
    assert submit_file(write(mine / "job.one.toml", toml), inbox).path == inbox / "job.one.toml"
    assert inside(inbox) == {"job.one.toml": toml}


def test_a_job_file_becomes_a_folder_with_the_files_that_it_names(inbox: Path, mine: Path) -> None:
    toml = "text_file = 'texts/speech.md'\navatar = 'ana.png'\n"
    write(mine / "texts/speech.md", "speech")
    write(mine / "ana.png", "picture")
    write(mine / "other.png", "not named")
    submitted = submit_file(write(mine / "news.toml", toml), inbox)
    assert inside(inbox) == {"news/job.toml": toml, "news/texts/speech.md": "speech", "news/ana.png": "picture"}
    assert (submitted.path, submitted.inode) == (inbox / "news", (inbox / "news/job.toml").stat().st_ino)
    assert [(job.relative, job.is_folder) for job in found(inbox)] == [("news", True)]


def test_one_file_named_twice_is_copied_once(inbox: Path, mine: Path) -> None:
    write(mine / "a.png", "picture")
    submit_file(write(mine / "news.toml", "text_file = 'a.png'\navatar = 'a.png'\n"), inbox)
    assert set(inside(inbox)) == {"news/job.toml", "news/a.png"}


@pytest.mark.parametrize("name", ["../ana.png", "ABSOLUTE"])
def test_named_files_outside_the_folder_are_refused(inbox: Path, tmp_path: Path, mine: Path, name: str) -> None:
    name = name.replace("ABSOLUTE", str(tmp_path / "ana.png"))
    write(tmp_path / "ana.png")
    file = write(mine / "news.toml", f"text = 'hi'\navatar = '{name}'\n")
    with pytest.raises(MistakesError) as caught:
        submit_file(file, inbox)
    assert str(caught.value) == f"{file}: {name!r} lies outside the job's folder; name a file beside the job"
    assert os.listdir(inbox) == []


def test_mistakes_in_a_job_file_are_told_and_nothing_is_submitted(inbox: Path, mine: Path) -> None:
    file = write(mine / "news.toml", "texx = 'hi'\n")
    with pytest.raises(MistakesError) as caught:
        submit_file(file, inbox)
    assert str(caught.value) == f"{file}: texx: unknown key; did you mean 'text'?"
    assert os.listdir(inbox) == []


def test_a_job_folder_is_taken_whole(inbox: Path, mine: Path) -> None:
    write(mine / "show/job.toml", "text = 'hi'")
    write(mine / "show/pictures/ana.png", "picture")
    (mine / "show/empty").mkdir()
    assert submit_file(mine / "show", inbox).path == inbox / "show"
    assert submit_file(mine / "show" / ".", inbox).path == inbox / "show-2"
    assert inside(inbox) == {
        f"{name}/{file}": text
        for name in ("show", "show-2")
        for file, text in (("job.toml", "text = 'hi'"), ("pictures/ana.png", "picture"))
    }
    assert [job.relative for job in found(inbox)] == ["show", "show-2"]


def test_in_an_inbox_for_a_group_a_folder_is_the_groups_too(inbox: Path, mine: Path) -> None:
    (mine / "job" / "deep").mkdir(parents=True)
    (mine / "job" / "job.toml").write_text("text = 'x'")
    modes = []
    for inboxes_mode in (0o755, 0o775):
        inbox.chmod(inboxes_mode)
        placed = submit_file(mine / "job", inbox).path
        modes.append({bool(folder.stat().st_mode & 0o020) for folder in (placed, placed / "deep")})
    assert modes == [{False}, {True}]


def test_a_folder_never_gets_the_name_of_a_preset(inbox: Path, mine: Path) -> None:
    write(mine / "news/job.toml", "text = 'hi'")
    presets = frozenset({"news"})
    assert submit_file(mine / "news", inbox, presets).path == inbox / "news-2"
    assert [(job.relative, job.preset) for job in found(inbox, presets)] == [("news-2", None)]


def test_the_daemon_may_read_what_was_private(inbox: Path, mine: Path) -> None:
    for name in ("a.txt", "a.png", "b/job.toml", "b/sub/x.wav", "c.toml"):
        write(mine / name, "avatar = 'a.png'\ntext = 'x'" if name == "c.toml" else "text = 'x'").chmod(0o600)
    (mine / "b/sub").chmod(0o700)
    for name in ("a.txt", "b", "c.toml"):
        submit_file(mine / name, inbox)
    modes = {str(path.relative_to(inbox)): stat.S_IMODE(path.stat().st_mode) for path in inbox.rglob("*")}
    assert len(modes) == 9
    assert all(mode & 0o444 == 0o444 for mode in modes.values())


def test_a_very_old_file_does_not_look_like_a_partial_upload(inbox: Path, mine: Path) -> None:
    file = write(mine / "hello.txt")
    os.utime(file, (0, 0))
    began = time.time()
    submit_file(file, inbox)
    assert (inbox / "hello.txt").stat().st_mtime >= began - 1
    assert [job.relative for job in found(inbox)] == ["hello.txt"]


def test_links_of_the_user_are_followed(inbox: Path, mine: Path) -> None:
    write(mine / "elsewhere/real.txt", "real")
    write(mine / "elsewhere/real.png", "picture")
    (mine / "hello.txt").symlink_to("elsewhere/real.txt")
    (mine / "hello.png").symlink_to("elsewhere/real.png")
    submit_file(mine / "hello.txt", inbox)
    assert inside(inbox) == {"hello.txt": "real", "hello.png": "picture"}
    assert not (inbox / "hello.txt").is_symlink()


def test_a_name_of_255_bytes(inbox: Path, mine: Path) -> None:
    file = write(mine / f"{'a' * 251}.txt")
    submit_file(file, inbox)
    assert os.listdir(inbox) == [file.name]
    assert refused(file, inbox).endswith("File name too long")


@pytest.mark.parametrize("name", ["hello.md", "hello", "hello.txt~", ".hello.txt", "hello.png"])
def test_what_is_no_job_is_refused(inbox: Path, mine: Path, name: str) -> None:
    file = write(mine / name)
    assert refused(file, inbox) == f"{file}: is no job; submit a .txt, a .toml, or a folder with a job.toml inside"


def test_a_missing_file_is_named(inbox: Path, mine: Path) -> None:
    file = mine / "gone.txt"
    assert refused(file, inbox) == f"{file}: No such file or directory"
    file = mine / "gone.toml"
    assert refused(file, inbox) == f"{file}: No such file or directory"


def test_a_folder_without_a_job_is_refused(inbox: Path, mine: Path) -> None:
    assert refused(mine, inbox) == f"{mine}: is no job folder; there is no job.toml in it"


def test_a_folder_that_the_daemon_would_leave_alone_is_refused(inbox: Path, mine: Path) -> None:
    write(mine / ".show/job.toml", "text = 'hi'")
    assert (
        refused(mine / ".show", inbox)
        == f"{mine / '.show'}: folders of the name '.show' are left alone in the inbox; rename it"
    )


def test_what_is_no_file_in_a_folder_is_refused(inbox: Path, mine: Path) -> None:
    write(mine / "show/job.toml", "text = 'hi'")
    os.mkfifo(mine / "show/pipe")
    pipe = mine / "show/pipe"
    assert refused(mine / "show", inbox) == f"{pipe}: is no file that can be submitted; remove it from the job"


def test_an_inbox_that_is_not_there_is_named(tmp_path: Path, mine: Path) -> None:
    file = write(mine / "hello.txt")
    with pytest.raises(UsageError) as caught:
        submit_file(file, tmp_path / "gone")
    assert str(caught.value) == (
        f"{tmp_path / 'gone'}: there is no such inbox; start the daemon (atenea run), or name its --config"
    )


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root gives up its right to write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_an_inbox_that_cannot_be_written_is_named() -> None:
    with TemporaryDirectory() as folder:  # `tmp_path` lies where nobody else may look
        inbox = Path(folder)
        file = write(inbox / "hello.txt")
        inbox.chmod(0o555)
        with as_nobody(), pytest.raises(UsageError) as caught:
            submit_file(file, inbox)
        inbox.chmod(0o755)
    assert str(caught.value) == f"{inbox}: cannot be written: Permission denied"


def test_an_inbox_that_may_not_be_entered_is_named() -> None:
    with TemporaryDirectory() as folder:
        file, inbox = write(Path(folder) / "hello.txt"), Path(folder) / "closed" / "inbox"
        Path(folder).chmod(0o755)
        inbox.parent.mkdir(mode=0o700)
        with as_nobody(), pytest.raises(UsageError) as caught:
            submit_file(file, inbox)
    assert str(caught.value) == f"{inbox}: cannot be written: Permission denied"


def test_a_job_file_whose_folder_would_be_left_alone_is_refused(mine: Path, inbox: Path) -> None:
    write(mine / "ana.png")
    file = write(mine / "speech.tmp.toml", 'text = "Hello."\navatar = "ana.png"')
    assert refused(file, inbox) == f"{file}: folders of the name 'speech.tmp' are left alone in the inbox; rename it"
