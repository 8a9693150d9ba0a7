import os
import shutil
import socket

import pytest

from atenea.inbox import readings
from atenea.inbox.readings import Reading
from atenea.inbox.scan import Scanner, ScanResult, fingerprint

PRESETS = {"news", ".odd"}


@pytest.fixture
def complaints():
    return []


@pytest.fixture
def scanner(inbox, clock, complaints):
    return Scanner(inbox, PRESETS, 1.0, clock, complaints.append)


@pytest.fixture
def settle(scanner, clock):
    """A function that scans twice, a second apart, and gives the paths of what has settled."""

    def settle():
        scanner.scan()
        clock.now += 1
        return [candidate.relative for candidate in scanner.scan().settled]

    return settle


def paths(candidate):
    return [path for path, _ in candidate.readings]


class TestSettling:
    def test_two_equal_readings_a_second_apart(self, scanner, inbox, clock):
        (inbox / "a.txt").write_text("x")
        assert scanner.scan() == ScanResult([], 1, 1001.0)
        clock.now += 0.5
        assert scanner.scan() == ScanResult([], 1, 1001.0)
        clock.now += 0.5
        (candidate,) = scanner.scan().settled
        assert candidate.readings == (("a.txt", Reading.of((inbox / "a.txt").stat())),)
        assert scanner.scan() == ScanResult([candidate], 0, None)

    def test_the_time_of_a_long_scan_does_not_count(self, inbox, complaints):
        """What was read late in the first scan and early in the second was not watched for a whole second."""
        times = iter([0.0, 0.9, 1.0, 1.9])
        scanner = Scanner(inbox, (), 1.0, lambda: next(times), complaints.append)
        (inbox / "a.txt").write_text("x")
        assert scanner.scan().next_due == 1.9
        assert scanner.scan().settled == []
        assert len(scanner.scan().settled) == 1

    @pytest.mark.parametrize("change", ["content", "touch", "chmod", "replace"])
    def test_a_change_starts_the_clock_again(self, scanner, inbox, clock, change):
        file = inbox / "a.txt"
        file.write_text("x")
        scanner.scan()
        clock.now += 0.9
        if change == "content":
            file.write_text("y")
        elif change == "touch":
            os.utime(file, (1, 5))
        elif change == "chmod":
            file.chmod(0o600)
        else:
            (inbox / ".new").write_text("x")
            (inbox / ".new").rename(file)
        clock.now += 0.2
        assert scanner.scan() == ScanResult([], 1, clock.now + 1)
        clock.now += 1
        assert len(scanner.scan().settled) == 1

    def test_next_due_is_the_first(self, scanner, inbox, clock):
        (inbox / "a.txt").write_text("x")
        scanner.scan()
        clock.now += 0.4
        (inbox / "b.txt").write_text("x")
        assert scanner.scan() == ScanResult([], 2, 1001.0)

    def test_vanished_ones_are_forgotten(self, scanner, inbox, clock):
        (inbox / "a.txt").write_text("x")
        scanner.scan()
        (inbox / "a.txt").rename(inbox / "hidden")
        clock.now += 1
        assert scanner.scan() == ScanResult([], 0, None)
        (inbox / "hidden").rename(inbox / "a.txt")
        assert scanner.scan() == ScanResult([], 1, clock.now + 1)

    def test_rsync_partial(self, scanner, inbox, clock):
        (inbox / "a.txt").write_text("x")
        os.utime(inbox / "a.txt", (0, 0))
        scanner.scan()
        clock.now += 100
        assert scanner.scan() == ScanResult([], 1, None)
        os.utime(inbox / "a.txt", (1, 1))
        scanner.scan()
        clock.now += 1
        assert len(scanner.scan().settled) == 1

    @pytest.mark.parametrize("part", ["a.png", "c/voice.wav", "c/.voice.wav.Ab12Cd", "c/x.filepart"])
    def test_parts_beside_and_inside(self, settle, inbox, part, complaints):
        (inbox / "c").mkdir()
        job = "c" if part.startswith("c/") else "a.txt"
        for path in ("a.txt", "c/job.toml", part):
            (inbox / path).write_text("x")
        if part in {"a.png", "c/voice.wav"}:
            os.utime(inbox / part, (0, 0))
        assert job not in settle()
        assert len(complaints) == (part in {"c/.voice.wav.Ab12Cd", "c/x.filepart"})
        (inbox / part).unlink()
        assert job in settle()


class TestCandidates:
    def test_a_text_and_its_picture(self, scanner, settle, inbox):
        for name in ("a.txt", "a.jpg", "a.png", "b.TXT", "B.png", "c.png"):
            (inbox / name).write_text("x")
        assert settle() == ["a.txt", "b.TXT"]
        a, b = scanner.scan().settled
        assert paths(a) == ["a.png", "a.txt"]
        assert a.pieces == ("a.png", "a.txt")
        assert (a.name, a.preset, a.is_folder, a.refusal) == ("a", None, False, None)
        assert (b.pieces, b.name) == (("b.TXT",), "b")

    def test_a_picture_goes_with_one_text(self, scanner, settle, inbox):
        for name in ("a.TXT", "a.txt", "a.png"):
            (inbox / name).write_text("x")
        settle()
        assert [candidate.pieces for candidate in scanner.scan().settled] == [("a.png", "a.TXT"), ("a.txt",)]

    def test_a_late_picture_delays_its_text(self, scanner, inbox, clock):
        (inbox / "a.txt").write_text("x")
        scanner.scan()
        clock.now += 0.9
        (inbox / "a.png").write_text("x")
        assert scanner.scan().next_due == clock.now + 1
        clock.now += 1
        (candidate,) = scanner.scan().settled
        assert paths(candidate) == ["a.png", "a.txt"]

    def test_toml_names_its_pictures_itself(self, scanner, settle, inbox):
        (inbox / "a.toml").write_text("x")
        (inbox / "a.png").write_text("x")
        settle()
        (candidate,) = scanner.scan().settled
        assert candidate.pieces == ("a.toml",)

    def test_a_folder_with_a_job_file(self, scanner, settle, inbox):
        (inbox / "c" / "in").mkdir(parents=True)
        for path in ("c/job.toml", "c/in/voice.wav", "c/a.txt", "c/.hidden"):
            (inbox / path).write_text("x")
        assert settle() == ["c"]
        (candidate,) = scanner.scan().settled
        assert paths(candidate) == ["c/.hidden", "c/a.txt", "c/in/voice.wav", "c/job.toml"]
        assert (candidate.pieces, candidate.name, candidate.is_folder) == (("c",), "c", True)

    def test_a_folder_that_fills_slowly(self, scanner, inbox, clock):
        (inbox / "c").mkdir()
        (inbox / "c" / "voice.wav").write_text("x")
        assert scanner.scan() == ScanResult([], 0, None)
        (inbox / "c" / "job.toml").write_text("x")
        for number in range(3):
            assert scanner.scan() == ScanResult([], 1, clock.now + 1)
            clock.now += 0.9
            (inbox / "c" / f"{number}.png").write_text("x")
        scanner.scan()
        clock.now += 1
        (candidate,) = scanner.scan().settled
        assert len(candidate.readings) == 5

    def test_presets(self, scanner, settle, inbox):
        for folder in ("news/c", ".odd", "news/news", "news/deep/deeper", "other"):
            (inbox / folder).mkdir(parents=True)
        files = ["a.txt", "a.png", "job.toml", "c/job.toml", "news/job.toml", "deep/deeper/job.toml"]
        for path in (*(f"news/{file}" for file in files), ".odd/b.txt", "other/a.txt", "news/.b.txt"):
            (inbox / path).write_text("x")
        assert sorted(settle()) == [".odd/b.txt", "news/a.txt", "news/c", "news/job.toml", "news/news"]
        found = {candidate.relative: candidate for candidate in scanner.scan().settled}
        assert {candidate.preset for candidate in found.values()} == {"news", ".odd"}
        assert found["news/a.txt"].pieces == ("news/a.png", "news/a.txt")
        assert found["news/job.toml"].name == "job"

    def test_odd_names(self, settle, inbox):
        odd = ["two\nlines.txt", "\udce9.txt", "n" * 251 + ".txt", "-rf *.txt"]
        for name in odd:
            (inbox / name).write_text("x")
        assert settle() == sorted(odd)

    @pytest.mark.parametrize("shape", ["many", "deep"])
    def test_too_large_a_folder_is_refused(self, scanner, settle, inbox, monkeypatch, shape):
        folder = inbox / "c"
        folder.mkdir()
        (folder / "job.toml").write_text("x")
        if shape == "many":
            monkeypatch.setattr(readings, "MAX_ENTRIES", 20)
            for number in range(20):
                (folder / str(number)).write_text("x")
        else:
            (folder / "/".join("d" * 17)).mkdir(parents=True)
        assert settle() == ["c"]
        (candidate,) = scanner.scan().settled
        assert paths(candidate) == ["c/job.toml"]
        assert candidate.refusal.startswith("the folder 'c' holds more than 1000 files or too deep folders:")

    def test_as_many_files_as_allowed(self, scanner, settle, inbox):
        (inbox / "c").mkdir()
        for number in range(999):
            (inbox / "c" / str(number)).write_text("x")
        (inbox / "c" / "job.toml").write_text("x")
        settle()
        (candidate,) = scanner.scan().settled
        assert len(candidate.readings) == 1000
        assert candidate.refusal is None


class TestLeftAlone:
    def test_names(self, scanner, settle, inbox):
        for name in (".a.txt", "a.mp4", "a.txt.part", "b.sync-conflict-20260101-120000-ABCDEFG.txt"):
            (inbox / name).write_text("x")
        (inbox / "folder.txt").mkdir()
        (inbox / ".git").mkdir()
        (inbox / ".git" / "job.toml").write_text("x")
        (inbox / "c").mkdir()
        (inbox / "c" / "job.toml").mkdir()
        assert settle() == []
        assert scanner.scan() == ScanResult([], 0, None)

    def test_irregular_ones_are_reported_once(self, scanner, settle, inbox, complaints, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "job.toml").write_text("x")
        (inbox / "a.txt").write_text("x")
        (inbox / "link.txt").symlink_to("/etc/passwd")
        (inbox / "a.png").symlink_to("/etc/passwd")
        (inbox / "folder").symlink_to(tmp_path / "elsewhere")
        (inbox / "news").symlink_to(tmp_path / "elsewhere")
        os.mkfifo(inbox / "fifo.txt")
        (inbox / ".hidden.txt").symlink_to("/etc/passwd")
        (inbox / "c").mkdir()
        (inbox / "c" / "job.toml").symlink_to("/etc/passwd")
        (inbox / "d" / "in").mkdir(parents=True)
        (inbox / "d" / "job.toml").write_text("x")
        (inbox / "d" / "in" / "x").symlink_to(tmp_path)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(inbox / "sock.toml"))
        server.close()
        assert settle() == ["a.txt", "d"]
        assert settle() == ["a.txt", "d"]
        odd = ["a.png", "c/job.toml", "d/in/x", "fifo.txt", "folder", "link.txt", "news", "sock.toml"]
        assert sorted(complaints) == [
            f"{name!r} in the inbox is neither a file nor a folder: it stays where it is" for name in odd
        ]
        (inbox / "fifo.txt").unlink()
        scanner.scan()
        os.mkfifo(inbox / "fifo.txt")
        scanner.scan()
        assert len(complaints) == len(odd) + 1

    def test_100000_unrelated_files_are_judged_by_name(self, inbox, clock, complaints, monkeypatch):
        """Entries that only have a name and a type; anything that asks for more fails."""

        class Entry:
            def __init__(self, name):
                self.name = name

            def is_file(self, *, follow_symlinks):
                assert not follow_symlinks
                return True

        class Entries(list):
            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

        (inbox / "a.txt").write_text("x")
        names = [
            *(f"{number}.wav" for number in range(50_000)),
            *(f".{number}.txt" for number in range(50_000)),
        ]
        entries = Entries(Entry(name) for name in [*names, "a.txt"])
        looked_at = []
        stat = os.stat
        monkeypatch.setattr(os, "scandir", lambda fd: entries)
        monkeypatch.setattr(os, "stat", lambda path, **kwargs: looked_at.append(path) or stat(path, **kwargs))
        result = Scanner(inbox, (), 1.0, clock, complaints.append).scan()
        monkeypatch.undo()
        assert (result.pending, looked_at, complaints) == (1, ["a.txt"], [])

    def test_real_unrelated_files(self, settle, inbox):
        for number in range(2000):
            (inbox / f"{number}.wav").write_text("x")
        (inbox / "a.txt").write_text("x")
        assert settle() == ["a.txt"]


class TestProblems:
    @pytest.mark.parametrize("kind", ["missing", "file", "unreadable"])
    def test_an_inbox_that_cannot_be_read(self, scanner, inbox, clock, complaints, kind, monkeypatch):
        (inbox / "a.txt").write_text("x")
        scanner.scan()
        inbox.rename(inbox.parent / "away")
        if kind == "file":
            inbox.write_text("x")
        elif kind == "unreadable":
            inbox.mkdir()

            def forbidden(fd):
                raise PermissionError(13, "Permission denied")

            monkeypatch.setattr(os, "scandir", forbidden)
        reason = {
            "missing": "No such file or directory",
            "file": "Not a directory",
            "unreadable": "Permission denied",
        }[kind]
        clock.now += 10
        problem = f"the inbox {str(inbox)!r} cannot be read: {reason}"
        assert scanner.scan() == ScanResult([], 0, None, problem)
        assert scanner.scan() == ScanResult([], 0, None, problem)
        monkeypatch.undo()
        inbox.unlink() if kind == "file" else shutil.rmtree(inbox, ignore_errors=True)
        (inbox.parent / "away").rename(inbox)
        assert scanner.scan() == ScanResult([], 1, clock.now + 1)
        assert complaints == [
            f"{problem}; jobs are taken again once it can",
            f"the inbox {str(inbox)!r} is back",
        ]

    def test_a_folder_that_cannot_be_read(self, scanner, inbox, clock, complaints, monkeypatch):
        for name in ("c", "d"):
            (inbox / name).mkdir()
            (inbox / name / "job.toml").write_text("x")
        (inbox / "news").mkdir()
        (inbox / "news" / "a.txt").write_text("x")
        bad = {(inbox / "c").stat().st_ino, (inbox / "news").stat().st_ino}
        scandir = os.scandir

        def some_forbidden(fd):
            if os.fstat(fd).st_ino in bad:
                raise PermissionError(13, "Permission denied")
            return scandir(fd)

        monkeypatch.setattr(os, "scandir", some_forbidden)
        scanner.scan()
        clock.now += 1
        assert [candidate.relative for candidate in scanner.scan().settled] == ["d"]
        assert sorted(complaints) == [
            f"{name!r} in the inbox cannot be read: Permission denied" for name in ("c", "news")
        ]

    def test_an_inbox_behind_a_link(self, inbox, tmp_path, clock, complaints):
        (tmp_path / "link").symlink_to(inbox)
        (inbox / "a.txt").write_text("x")
        assert Scanner(tmp_path / "link", (), 1.0, clock, complaints.append).scan().pending == 1


class TestFingerprint:
    def test_differs_by_what_an_upload_changes(self, inbox):
        (inbox / "c").mkdir()
        seen = set()

        def note():
            seen.add((fingerprint(inbox, "a.txt"), fingerprint(inbox, "c")))
            return len(seen)

        assert note() == 1
        for count, path in enumerate(("a.txt", "c/job.toml", "c/voice.wav", "a.png"), 2):
            (inbox / path).write_text("x")
            assert note() == count
        (inbox / "a.txt").write_text("xx")
        os.utime(inbox / "a.txt", (5, 5))
        assert note() == 6
        os.utime(inbox / "c/voice.wav", (5, 5))
        assert note() == 7
        (inbox / "a.txt").chmod(0o600)
        (inbox / "b.txt").write_text("x")
        assert note() == 7

    def test_survives_a_move(self, inbox, tmp_path):
        (inbox / "a.txt").write_text("x")
        before = fingerprint(inbox, "a.txt")
        (tmp_path / "original").mkdir()
        (inbox / "a.txt").rename(tmp_path / "original" / "a.txt")
        assert fingerprint(tmp_path / "original", "a.txt") == before
        assert len(before) == 64


class TestSlowFiles:
    def test_an_empty_file_settles_ten_times_as_slowly(self, scanner, inbox, clock):
        (inbox / "a.txt").touch()
        assert scanner.scan().next_due == 1010.0
        clock.now += 9.9
        assert scanner.scan().settled == []
        clock.now += 0.1
        assert len(scanner.scan().settled) == 1

    def test_whole_seconds_settle_two_later(self, scanner, inbox, clock, monkeypatch):
        monkeypatch.setattr(Reading, "is_coarse", True)
        (inbox / "a.txt").write_text("x")
        assert scanner.scan().next_due == 1003.0

    @pytest.mark.parametrize("part", [".a.png.Xa81bZ", ".syncthing.a.jpg.tmp", "a.webp.part", ".in.a.png"])
    def test_a_text_whose_picture_is_uploaded(self, scanner, inbox, clock, part):
        (inbox / "a.txt").write_text("x")
        for content in ("1", "12", "123"):
            (inbox / part).write_text(content)
            assert scanner.scan().settled == []
            clock.now += 0.9
        clock.now += 0.1
        (candidate,) = scanner.scan().settled
        assert paths(candidate) == ["a.txt"]

    def test_a_folder_waits_for_what_it_names(self, inbox, clock, complaints, tmp_path):
        assets = tmp_path / "assets"
        assets.mkdir()
        scanner = Scanner(inbox, (), 1.0, clock, complaints.append, assets=assets, wait_for_files_seconds=10.0)

        def settled():
            return sorted(candidate.relative for candidate in scanner.scan().settled)

        for name in ("a", "b", "c", "broken", "never"):
            (inbox / name).mkdir()
            (inbox / name / "job.toml").write_text('avatar = "x.png"\ntext_file = "x.txt"')
        (inbox / "broken" / "job.toml").write_text("avatar = ")
        scanner.scan()
        clock.now += 1
        assert settled() == ["broken"]
        assert min(complaints) == "'a' waits: it names 'x.txt' and 'x.png'"
        assert len(complaints) == 4
        for name in ("a", "b", "c"):
            (inbox / name / "x.txt").write_text("x")
        for place in ("a", "b"):
            (inbox / place / "x.png").write_text("x")
        scanner.scan()
        clock.now += 1
        assert settled() == ["a", "b", "broken"]
        (assets / "x.png").write_text("x")
        assert settled() == ["a", "b", "broken", "c"]
        assets.joinpath("x.png").unlink()
        clock.now += 10
        assert "never" in settled()
