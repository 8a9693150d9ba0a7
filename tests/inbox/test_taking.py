import errno
import os
import shutil

import pytest

from atenea import durable
from atenea.inbox import readings
from atenea.inbox.late import bring_rest, rest_folder
from atenea.inbox.readings import Reading, fingerprint
from atenea.inbox.taking import Taker

ODD_NAMES = ["two\nlines.txt", "latin-\udce9.txt", "n" * 251 + ".txt", "ünï ¿?.TXT", "-rf *.txt", "%s{0}.txt"]


@pytest.fixture
def complaints():
    return []


@pytest.fixture
def taker(inbox, state, ledger, complaints):
    taker = Taker(inbox, state, {"news"}, ledger, report=complaints.append)
    taker.recover()
    return taker


@pytest.fixture(params=["rename", "copy"])
def either(request, monkeypatch):
    """Both ways of taking."""
    if request.param == "copy":
        without_rename(monkeypatch, errno.EXDEV)
    return request.param


def without_rename(monkeypatch, code):
    rename = durable._renameat2
    monkeypatch.setattr(durable, "_renameat2", lambda fd, *rest: code if fd >= 0 else rename(fd, *rest))


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_text_and_its_picture(taker, inbox, state, ledger, settled, either):
    (inbox / "a.txt").write_text("hello")
    (inbox / "a.jpg").write_text("picture")
    before = Reading.of((inbox / "a.txt").stat())
    (candidate,) = settled(inbox)
    rows = taker.take([candidate])
    (row,) = rows
    assert list(ledger.rows.values()) == rows
    assert (row.job_id, row.relative, row.preset, row.name) == ("000000", "a.txt", None, "a")
    assert row.copied == (either == "copy")
    assert row.refusal is None
    assert (row.source["device"], row.source["inode"]) == (before.device, before.inode)
    assert row.source_readings == candidate.readings
    original = state / "jobs" / "000000" / "original"
    assert tree(state) == [
        "jobs",
        "jobs/000000",
        "jobs/000000/original",
        "jobs/000000/original/a.jpg",
        "jobs/000000/original/a.txt",
    ]
    assert row.fingerprint == fingerprint(original, "a.txt")
    assert (original / "a.txt").stat().st_mtime_ns == before.mtime_ns
    assert tree(inbox) == []
    assert ledger.unfinished == set()


def test_an_upload_that_goes_on_is_noticed(taker, inbox, state, settled):
    with (inbox / "a.txt").open("w") as upload:
        upload.write("first half")
        upload.flush()
        (row,) = taker.take(settled(inbox))
        original = state / "jobs" / row.job_id / "original"
        assert fingerprint(original, row.relative) == row.fingerprint
        upload.write(", second half")
    assert fingerprint(original, row.relative) != row.fingerprint
    assert (original / "a.txt").read_text() == "first half, second half"


def test_odd_names(taker, inbox, state, ledger, settled, either):
    for name in ODD_NAMES:
        (inbox / name).write_text(name, errors="surrogateescape")
    rows = taker.take(settled(inbox))
    assert sorted(row.relative for row in rows) == sorted(ODD_NAMES)
    for row in rows:
        assert os.listdir(state / "jobs" / row.job_id / "original") == [row.relative]
        assert row.name == row.relative[:-4]
    assert tree(inbox) == []


def test_a_job_folder_as_a_whole(taker, inbox, state, settled, either):
    (inbox / "news" / "j" / "deep").mkdir(parents=True)
    (inbox / "news" / "j" / "job.toml").write_text("x")
    (inbox / "news" / "j" / "deep" / "voice.wav").write_text("y")
    (row,) = taker.take(settled(inbox, {"news"}))
    assert (row.relative, row.preset, row.name) == ("news/j", "news", "j")
    assert tree(state / "jobs" / row.job_id) == [
        "original",
        "original/news",
        "original/news/j",
        "original/news/j/deep",
        "original/news/j/deep/voice.wav",
        "original/news/j/job.toml",
    ]
    assert tree(inbox) == ["news"]


def test_a_batch_has_one_commit_and_one_sync(taker, inbox, ledger, settled, monkeypatch):
    for number in range(300):
        (inbox / f"{number}.txt").touch()
    syncs = []
    sync = durable._syncfs
    monkeypatch.setattr(durable, "_syncfs", lambda fd: syncs.append(fd) or sync(fd))
    assert len(taker.take(settled(inbox))) == 300
    assert ledger.commits == 1
    assert len(syncs) == 1
    assert len(ledger.rows) == 300
    assert tree(inbox) == []


class TestAnotherMount:
    def test_jobs_are_copied(self, other_mount, state, ledger, settled, complaints):
        (other_mount / "a.txt").write_text("text")
        (other_mount / "a.png").write_text("picture")
        (other_mount / "c").mkdir()
        (other_mount / "c" / "job.toml").write_text("toml")
        (other_mount / "c" / "link").symlink_to("/etc/passwd")
        taker = Taker(other_mount, state, (), ledger, report=complaints.append)
        taker.recover()
        rows = taker.take(settled(other_mount))
        assert [(row.relative, row.copied) for row in rows] == [("a.txt", True), ("c", True)]
        assert tree(other_mount) == ["c", "c/link"]
        assert tree(state / "jobs" / rows[1].job_id) == ["original", "original/c", "original/c/job.toml"]
        assert (state / "jobs" / rows[0].job_id / "original" / "a.png").read_text() == "picture"
        assert ledger.unfinished == set()
        assert complaints == []

    @pytest.mark.parametrize("change", ["grows", "is replaced"])
    def test_a_source_that_changes_after_the_commit(self, other_mount, state, ledger, settled, change):
        """One that grows is the same job's, and kept for it; one that was replaced is another job's."""
        (other_mount / "a.txt").write_text("text")
        add = ledger.add_taken

        def add_and_change(rows):
            ledger.add_taken = add
            add(rows)
            (other_mount / "new").write_text("new text")
            if change == "grows":
                (other_mount / "a.txt").write_text("text and more")
            else:
                (other_mount / "new").rename(other_mount / "a.txt")

        ledger.add_taken = add_and_change
        taker = Taker(other_mount, state, (), ledger)
        taker.recover()
        (row,) = taker.take(settled(other_mount))
        rest = rest_folder(other_mount, row.job_id)
        if change == "is replaced":
            assert tree(other_mount) == ["a.txt"]
            assert ledger.unfinished == set()
            return
        assert tree(other_mount) == [rest.name, f"{rest.name}/a.txt", "new"]
        assert taker.take(settled(other_mount)) == []
        original = state / "jobs" / row.job_id / "original"
        bring_rest(rest, original, "a.txt")
        assert (original / "a.txt").read_text() == "text and more"
        assert fingerprint(original, "a.txt") != row.fingerprint
        ledger.past_changes.add(row.job_id)
        taker.take([])
        assert tree(other_mount) == ["new"]
        assert ledger.unfinished == set()

    def test_a_source_that_is_still_being_written_is_kept(self, other_mount, state, ledger, settled):
        with (other_mount / "a.txt").open("w") as upload:
            upload.write("first half")
            upload.flush()
            taker = Taker(other_mount, state, (), ledger)
            taker.recover()
            (row,) = taker.take(settled(other_mount))
            Taker(other_mount, state, (), ledger).recover()
            assert not (other_mount / "a.txt").exists()
            assert ledger.unfinished == {row.job_id}
            upload.write(", second half")
        original = state / "jobs" / row.job_id / "original"
        bring_rest(rest_folder(other_mount, row.job_id), original, "a.txt")
        assert (original / "a.txt").read_text() == "first half, second half"

    def test_a_preset_folder_on_a_mount_of_its_own(self, other_mount, state, ledger, settled, complaints):
        if other_mount.name != "mount":
            pytest.skip("mounting is not allowed")
        (other_mount / "a.txt").write_text("text")
        finished = ledger.copy_finished

        def failing(job_id):
            raise RuntimeError("killed")

        ledger.copy_finished = failing
        taker = Taker(other_mount.parent, state, {"mount"}, ledger, report=complaints.append)
        taker.recover()
        with pytest.raises(RuntimeError):
            taker.take(settled(other_mount.parent, {"mount"}))
        assert tree(other_mount) == []
        ledger.copy_finished = finished
        Taker(other_mount.parent, state, {"mount"}, ledger, report=complaints.append).recover()
        assert ledger.unfinished == set()
        assert [row.relative for row in ledger.rows.values()] == ["mount/a.txt"]
        assert complaints == []

    def test_an_inbox_that_is_unmounted_keeps_its_copies_unfinished(
        self, other_mount, state, ledger, settled, complaints, tmp_path
    ):
        (other_mount / "a.txt").write_text("text")
        away = tmp_path / "away"
        link = tmp_path / "link"
        away.mkdir()
        link.symlink_to(other_mount)
        add = ledger.add_taken

        def add_and_unmount(rows):
            add(rows)
            link.unlink()
            link.symlink_to(away)

        ledger.add_taken = add_and_unmount
        taker = Taker(link, state, (), ledger, report=complaints.append)
        taker.recover()
        (row,) = taker.take(settled(link))
        assert ledger.unfinished == {row.job_id}
        assert complaints == [
            "'a.txt' was taken, but cannot be removed from the inbox: another file system is mounted there"
        ]
        link.unlink()
        link.symlink_to(other_mount)
        assert taker.take(settled(link)) == []
        assert ledger.unfinished == set()
        assert tree(other_mount) == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.EROFS])
def test_a_source_that_cannot_be_removed_is_taken_once(inbox, state, ledger, settled, complaints, monkeypatch, code):
    (inbox / "a.txt").write_text("text")
    without_rename(monkeypatch, code)
    remove = durable.remove_file

    def forbidden(path, *, dir_fd=None):
        if dir_fd is not None:
            raise OSError(code, os.strerror(code), path)
        remove(path)

    monkeypatch.setattr(durable, "remove_file", forbidden)
    for _start in range(2):
        taker = Taker(inbox, state, (), ledger, report=complaints.append)
        taker.recover()
        taker.take(settled(inbox))
        taker.take(settled(inbox))
    assert len(ledger.rows) == 1
    assert len(complaints) == 2
    assert "cannot be removed from the inbox" in complaints[0]
    (inbox / "a.txt").write_text("a new text")
    taker.take(settled(inbox))
    assert [row.relative for row in ledger.rows.values()] == ["a.txt", "a.txt"]
    monkeypatch.setattr(durable, "remove_file", remove)
    taker.take(settled(inbox))
    assert tree(inbox) == []
    assert len(ledger.rows) == 2
    assert ledger.unfinished == set()


class TestChangedInBetween:
    """Between the scan and the rename, and between the last look and the rename."""

    def test_grown(self, taker, inbox, state, ledger, settled, either):
        (inbox / "a.txt").write_text("text")
        (inbox / "a.png").write_text("picture")
        candidates = settled(inbox)
        (inbox / "a.png").write_text("picture and more")
        assert taker.take(candidates) == []
        assert ledger.rows == {}
        assert tree(state) == ["jobs"]
        assert tree(inbox) == ["a.png", "a.txt"]

    def test_vanished(self, taker, inbox, state, settled, either):
        (inbox / "a.txt").write_text("text")
        (inbox / "b.txt").write_text("text")
        candidates = settled(inbox)
        (inbox / "a.txt").unlink()
        assert [row.relative for row in taker.take(candidates)] == ["b.txt"]
        assert tree(state)[:2] == ["jobs", "jobs/000001"]

    def test_the_whole_inbox_vanished(self, taker, inbox, state, settled, complaints, either):
        (inbox / "a.txt").write_text("text")
        candidates = settled(inbox)
        shutil.rmtree(inbox)
        assert taker.take(candidates) == []
        assert tree(state) == ["jobs"]
        assert complaints == []

    @pytest.mark.parametrize("name", ["a.txt", "a.png"])
    def test_swapped_for_a_link(self, taker, inbox, state, settled, monkeypatch, name):
        (inbox / "a.txt").write_text("text")
        (inbox / "a.png").write_text("picture")
        candidates = settled(inbox)

        def swap():
            (inbox / name).unlink()
            (inbox / name).symlink_to("/etc/passwd")

        self.just_before_the_rename(monkeypatch, swap)
        assert taker.take(candidates) == []
        assert tree(state) == ["jobs"]
        assert tree(inbox) == ["a.png", "a.txt"]
        assert os.readlink(inbox / name) == "/etc/passwd"

    def test_grown_late(self, taker, inbox, state, settled, monkeypatch):
        (inbox / "a.txt").write_text("text")
        candidates = settled(inbox)
        self.just_before_the_rename(monkeypatch, lambda: (inbox / "a.txt").write_text("text and more"))
        assert taker.take(candidates) == []
        assert tree(state) == ["jobs"]
        assert (inbox / "a.txt").read_text() == "text and more"

    def test_grown_while_copied(self, taker, inbox, state, settled, monkeypatch):
        without_rename(monkeypatch, errno.EXDEV)
        (inbox / "a.txt").write_text("text")
        candidates = settled(inbox)
        copy = durable.copy_synced

        def copy_and_grow(source, destination):
            copy(source, destination)
            (inbox / "a.txt").write_text("text and more")

        monkeypatch.setattr(durable, "copy_synced", copy_and_grow)
        assert taker.take(candidates) == []
        assert tree(state) == ["jobs"]
        assert tree(inbox) == ["a.txt"]

    def test_a_preset_folder_swapped_for_a_link(self, taker, inbox, state, settled, tmp_path, complaints):
        (inbox / "news").mkdir()
        (inbox / "news" / "a.txt").write_text("text")
        candidates = settled(inbox, {"news"})
        (inbox / "news").rename(tmp_path / "elsewhere")
        (inbox / "news").symlink_to(tmp_path / "elsewhere")
        assert taker.take(candidates) == []
        assert tree(tmp_path / "elsewhere") == ["a.txt"]
        assert tree(state) == ["jobs"]

    @staticmethod
    def just_before_the_rename(monkeypatch, act):
        rename = durable.rename_exclusive
        acts = [act]

        def late(*args, **kwargs):
            if acts and "src_dir_fd" in kwargs:
                acts.pop()()
            rename(*args, **kwargs)

        monkeypatch.setattr(durable, "rename_exclusive", late)


class TestTooManyFiles:
    @pytest.fixture
    def candidates(self, inbox, settled, monkeypatch):
        monkeypatch.setattr(readings, "MAX_ENTRIES", 3)
        (inbox / "c").mkdir()
        for name in ("job.toml", "1", "2", "3"):
            (inbox / "c" / name).touch()
        return settled(inbox)

    def test_is_taken_with_its_refusal(self, taker, candidates, state):
        (row,) = taker.take(candidates)
        assert row.refusal == candidates[0].refusal
        assert row.refusal.startswith("the folder 'c' holds more than")
        assert fingerprint(state / "jobs" / row.job_id / "original", "c") == row.fingerprint

    def test_is_not_copied(self, taker, candidates, inbox, state, complaints, monkeypatch):
        without_rename(monkeypatch, errno.EXDEV)
        assert taker.take(candidates) == []
        assert taker.take(candidates) == []
        assert tree(state) == ["jobs"]
        assert len(tree(inbox)) == 5
        assert complaints == [f"{candidates[0].refusal}; it stays where it is"]


class TestErrors:
    def test_one_job_that_fails_does_not_stop_the_others(self, taker, inbox, state, settled, complaints, monkeypatch):
        for name in "abc":
            (inbox / f"{name}.txt").write_text(name)
        rename = durable.rename_exclusive

        def failing(src, dst, **kwargs):
            if src == "b.txt":
                raise OSError(errno.EIO, "broken")
            rename(src, dst, **kwargs)

        monkeypatch.setattr(durable, "rename_exclusive", failing)
        candidates = settled(inbox)
        assert [row.relative for row in taker.take(candidates)] == ["a.txt", "c.txt"]
        assert taker.take(candidates) == []
        assert complaints == ["'b.txt' cannot be taken: broken"]
        assert tree(inbox) == ["b.txt"]

    def test_full_disk_while_copying(self, taker, inbox, state, settled, complaints, monkeypatch):
        without_rename(monkeypatch, errno.EXDEV)
        (inbox / "a.txt").write_text("text")

        def full(fd, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(durable, "_write", full)
            assert taker.take(settled(inbox)) == []
        assert tree(state) == ["jobs"]
        assert complaints == ["'a.txt' cannot be taken: No space left on device"]
        assert len(taker.take(settled(inbox))) == 1

    def test_a_commit_that_fails_is_made_up_for(self, taker, inbox, ledger, settled, either):
        (inbox / "a.txt").write_text("text")
        add = ledger.add_taken

        def failing(rows):
            ledger.add_taken = add
            raise RuntimeError("database is locked")

        ledger.add_taken = failing
        with pytest.raises(RuntimeError):
            taker.take(settled(inbox))
        assert ledger.rows == {}
        rows = taker.take(settled(inbox))
        assert [row.relative for row in rows] == ["a.txt"]
        assert tree(inbox) == []

    def test_a_commit_that_failed_only_in_appearance(self, taker, inbox, state, ledger, settled, either):
        (inbox / "a.txt").write_text("text")
        add = ledger.add_taken

        def committing_then_failing(rows):
            add(rows)
            ledger.add_taken = add
            raise RuntimeError("interrupted")

        ledger.add_taken = committing_then_failing
        with pytest.raises(RuntimeError):
            taker.take(settled(inbox))
        assert taker.take(settled(inbox)) == []
        assert list(ledger.rows) == ["000000"]
        assert tree(inbox) == []
        assert os.listdir(state / "jobs" / "000000") == ["original"]

    def test_what_cannot_be_put_back_is_tried_again(self, taker, inbox, state, settled, complaints, monkeypatch):
        (inbox / "a.txt").write_text("text")
        (inbox / "a.png").write_text("picture")
        rename = durable.rename_exclusive

        def only_the_picture(src, dst, **kwargs):
            if src != "a.png":
                raise OSError(errno.EIO, "broken")
            rename(src, dst, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(durable, "rename_exclusive", only_the_picture)
            assert taker.take(settled(inbox)) == []
            assert tree(inbox) == ["a.txt"]
            assert taker.take([]) == []
        assert complaints == [
            "'a.txt' cannot be taken: broken",
            f"{str(state / 'jobs' / '000000')!r} cannot be put back into the inbox: broken",
        ]
        assert taker.take([]) == []
        assert tree(inbox) == ["a.png", "a.txt"]
        assert tree(state) == ["jobs"]


class TestRecovery:
    @pytest.fixture
    def left(self, state):
        """A function that makes what a crash left in a job's folder."""

        def make(*paths):
            for path in paths:
                full = state / "jobs" / "000000" / path
                full.parent.mkdir(parents=True, exist_ok=True)
                full.mkdir() if path.endswith("/") else full.write_text(path)

        return make

    @pytest.fixture
    def recover(self, inbox, state, ledger, complaints):
        def recover(presets=("news",)):
            ledger.new_ids(1)
            return Taker(inbox, state, presets, ledger, report=complaints.append).recover()

        return recover

    @pytest.mark.parametrize("path", ["original/news/", "original/", ".copy/", ".copy/news/a.txt", "../x/"])
    def test_nothing_of_worth_is_removed(self, left, recover, state, ledger, path):
        left(path)
        assert recover() == []
        assert tree(state) == ["jobs"]

    @pytest.mark.parametrize(
        ("paths", "presets", "expected"),
        [
            (["a.txt", "a.png"], ["news"], ("a.txt", None, "a")),
            (["a.toml"], ["news"], ("a.toml", None, "a")),
            (["c/job.toml"], ["news"], ("c", None, "c")),
            (["news/a.txt", "news/a.png"], ["news"], ("news/a.txt", "news", "a")),
            (["news/job.toml"], ["news"], ("news/job.toml", "news", "job")),
            (["news/c/job.toml"], ["news"], ("news/c", "news", "c")),
            (["news/a.txt"], [], ("news/a.txt", "news", "a")),
            (["news/c/job.toml"], [], ("news/c", "news", "c")),
        ],
    )
    def test_a_whole_job_is_entered(self, left, recover, state, ledger, paths, presets, expected):
        left(*(f"original/{path}" for path in paths))
        (row,) = recover(presets)
        assert (row.relative, row.preset, row.name) == expected
        assert row.fingerprint == fingerprint(state / "jobs" / "000000" / "original", row.relative)
        assert [path for path, _ in row.source_readings] == sorted(paths)
        assert ledger.rows == {"000000": row}

    @pytest.mark.parametrize("level", ["", "news/"])
    def test_a_picture_alone_goes_back(self, left, recover, inbox, state, level):
        left(f"original/{level}a.png")
        assert recover() == []
        assert (inbox / level / "a.png").read_text() == f"original/{level}a.png"
        assert tree(state) == ["jobs"]

    def test_a_picture_alone_gives_way_to_a_newer_one(self, left, recover, inbox, state):
        left("original/a.png")
        (inbox / "a.png").write_text("newer")
        assert recover() == []
        assert (inbox / "a.png").read_text() == "newer"
        assert tree(state) == ["jobs"]

    def test_without_an_inbox_it_is_kept(self, left, recover, inbox, state, complaints):
        left("original/a.png")
        inbox.rmdir()
        assert recover() == []
        assert len(complaints) == 1
        inbox.mkdir()
        assert recover() == []
        assert tree(inbox) == ["a.png"]
        assert tree(state) == ["jobs"]

    def test_a_link_goes_back_unfollowed(self, left, recover, inbox, state):
        left("original/")
        (state / "jobs" / "000000" / "original" / "a.txt").symlink_to("/etc/passwd")
        assert recover() == []
        assert os.readlink(inbox / "a.txt") == "/etc/passwd"
        assert tree(state) == ["jobs"]

    def test_a_file_with_two_names_loses_the_one_in_the_inbox(self, left, recover, inbox, state):
        left("original/a.txt")
        os.link(state / "jobs" / "000000" / "original" / "a.txt", inbox / "a.txt")
        os.link(inbox / "a.txt", inbox / "b.txt")
        assert len(recover()) == 1
        assert tree(inbox) == ["b.txt"]

    def test_known_jobs_and_strange_files_are_left_alone(self, left, recover, state, ledger):
        left("original/a.png")
        ledger.rows["000000"] = None
        (state / "jobs" / "README").touch()
        assert recover() == []
        assert tree(state / "jobs") == ["000000", "000000/original", "000000/original/a.png", "README"]

    def test_one_folder_that_cannot_be_read_does_not_stop_the_others(
        self, left, recover, state, ledger, complaints, monkeypatch
    ):
        left("original/a.txt", "../000001/original/b.txt")
        whole = Taker._whole_job

        def failing(taker, job_id):
            if job_id == "000000":
                raise PermissionError(errno.EACCES, "Permission denied")
            return whole(taker, job_id)

        with monkeypatch.context() as patch:
            patch.setattr(Taker, "_whole_job", failing)
            assert [row.relative for row in recover()] == ["b.txt"]
        assert complaints == [f"{str(state / 'jobs' / '000000')!r} is not read: Permission denied"]
        assert [row.relative for row in recover()] == ["a.txt"]
