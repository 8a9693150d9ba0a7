import pytest

from atenea.inbox import names
from atenea.inbox.names import Kind

JOBS = {
    "a.txt": Kind.TEXT,
    "A.TXT": Kind.TEXT,
    "a.Toml": Kind.TOML,
    "a.png": Kind.PICTURE,
    "a.JPG": Kind.PICTURE,
    "a.webp": Kind.PICTURE,
    "two.dots.txt": Kind.TEXT,
    "two\nlines.txt": Kind.TEXT,
    "latin-\udce9.txt": Kind.TEXT,
    "n" * 251 + ".txt": Kind.TEXT,
    " .txt": Kind.TEXT,
    "~.txt": Kind.TEXT,
    "#1.txt": Kind.TEXT,
    "the (conflicted) copy.txt": Kind.TEXT,
    "my conflict.txt": Kind.TEXT,
    "part.txt": Kind.TEXT,
    "sync-conflict.txt": Kind.TEXT,
}
LEFT_ALONE = [
    *(".txt", ".a.txt", ".hidden", ".a.txt.Xa81bZ", ".~tmp~", ".rsync-partial", "a.txt~"),
    *("..txt", ".\n.txt", "~$a.txt", ".~lock.a.txt#", ".#a.txt", ".a.txt.swp", ".goutputstream-AB12CD"),
    *(".syncthing.a.txt.tmp", "~syncthing~a.txt.tmp", "a.sync-conflict-20260101-120000-ABCDEFG.txt"),
    *("a (conflicted copy 2026-01-01 120000).txt", "a_conflict-20260101-120000.txt", ".a.txt.~1a2b"),
    *("a (Ana's conflicted copy 2026-01-01).txt", "a (Case Conflict).txt", "a (Case Conflict 1).txt"),
    *("a (copia en conflicto de Ana 2026-01-01).txt", "a (In Konflikt stehende Kopie von Ana).txt"),
    *("two\nlines (conflicted copy).txt", "a.tmp", "a.bak", "folder.part"),
]
OTHER_SUFFIXES = [
    *("a", "a.mp4", "a.txt.filepart", "a.txt.part", "a.txt.crdownload", "a.txt.ocTransferId12.part"),
    *("a.txt.tmp", "#a.txt#", "a.txt.save", "a.txt.save.1", "sedAb12Cd", "4913", "a.txt.1a2b3c4d.partial"),
    *("a.txt.~1~", "lu1234ab.tmp", "~WRL0001.tmp", "a.txt___jb_tmp___", "a.txt.aria2", "txt", "a.", "a.txt "),
    *("a.jpeg", "a.txt\n"),
]
PARTIAL = [
    *(".a.txt.Xa81bZ", ".voice.wav.abcdef", "a.txt.part", "a.txt.filepart", ".syncthing.a.txt.tmp"),
    *(".~tmp~", ".rsync-partial", ".a.txt.~1a2b", "Unconfirmed 1.crdownload", ".in.a.txt"),
]
NOT_PARTIAL = ["a.txt", ".hidden", ".DS_Store", ".a.txt.swp", "a.txt~", ".gitignore", ".a.txt.Xa81b", "a.bak"]


@pytest.mark.parametrize(("name", "kind"), JOBS.items())
def test_jobs(name, kind):
    assert names.kind(name) is kind
    assert not names.is_left_alone(name)


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name):
    assert names.is_left_alone(name)
    assert names.kind(name) is Kind.OTHER


@pytest.mark.parametrize("name", OTHER_SUFFIXES)
def test_other_suffixes(name):
    assert names.kind(name) is Kind.OTHER


@pytest.mark.parametrize("name", ["news", "4913", "sedation1", "Mr. Smith", "v1.2", "a.txt", "Holiday (copy)"])
def test_folders_are_not_left_alone(name):
    assert not names.is_left_alone(name)


def test_partial():
    assert [name for name in PARTIAL if not names.is_partial(name)] == []
    assert [name for name in NOT_PARTIAL if names.is_partial(name)] == []


def test_stem_and_pictures():
    assert names.stem("two.dots.TXT") == "two.dots"
    assert names.picture_names("a.txt") == ("a.png", "a.jpg", "a.webp", "a.PNG", "a.JPG", "a.WEBP")


@pytest.mark.parametrize(
    ("part", "whole"),
    [
        (".a.png.Xa81bZ", "a.png"),
        (".syncthing.a.png.tmp", "a.png"),
        ("~syncthing~a.png.tmp", "a.png"),
        (".a.png.~1a2b3c", "a.png"),
        (".in.a.png", "a.png"),
        (".in.a.png.", "a.png"),
        ("a.png.filepart", "a.png"),
        ("a.png.part", "a.png"),
        ("a.png.crdownload", "a.png"),
        ("a.png.ocTransferId123.part", "a.png"),
        ("a.png", None),
        (".hidden", None),
        ("a.png.txt", None),
    ],
)
def test_what_a_part_becomes(part, whole):
    assert names.becomes(part) == whole
    assert whole is None or names.is_partial(part)
