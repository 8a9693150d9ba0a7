"""Every kind of picture that people have, and files that only look like one."""

import zlib

import numpy as np
import pytest
from PIL import Image

from atenea import PermanentError
from atenea.media.avatar import MOUTH_BOX, default_avatar, talking_avatar
from atenea.media.pictures import BACKGROUND, load_avatar, square

LIMIT = 1_000_000


def load(path):
    return load_avatar(path, max_pixels=LIMIT)


def near(picture, place, colour, by=6):
    return np.abs(np.array(picture.getpixel(place)) - colour).max() <= by


def test_turned_photo_is_upright(tmp_path):
    photo = Image.new("RGB", (40, 20), "white")
    photo.paste((200, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "a.jpg", exif=exif, quality=95)
    picture = load(tmp_path / "a.jpg")
    assert picture.size == (20, 40)
    assert near(picture, (10, 5), (200, 0, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_neutral(tmp_path, mode):
    picture = Image.new("RGBA", (8, 8), (10, 10, 10, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 4, 8))
    if mode == "P":
        picture.quantize(4).save(tmp_path / "a.png")
    else:
        picture.convert(mode).save(tmp_path / "a.png")
    loaded = load(tmp_path / "a.png")
    assert near(loaded, (1, 1), BACKGROUND)
    assert near(loaded, (6, 1), (10, 10, 10))


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert near(load(tmp_path / "a.jpg"), (4, 4), (255, 0, 0), by=12)


def test_sixteen_bits_of_grey(tmp_path):
    values = np.array([[0, 32768, 65535]], np.uint16).repeat(3, axis=0)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert [load(tmp_path / "a.png").getpixel((x, 1)) for x in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], duration=100)
    assert near(load(tmp_path / f"a.{suffix}"), (8, 8), (255, 0, 0), by=10)


def png_header(width, height):
    body = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)


@pytest.mark.parametrize("side", [1001, 15_000, 60_000])
def test_too_many_pixels_are_refused_before_decoding(tmp_path, side):
    (tmp_path / "big.png").write_bytes(png_header(side, side) + b"\0\0\0\0IDAT")
    with pytest.raises(PermanentError, match=r"big\.png has .*pixels"):
        load(tmp_path / "big.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff"])
@pytest.mark.parametrize("kept", [0.03, 0.5])
def test_cut_file_is_named(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(PermanentError, match=rf"a\.{suffix} is "):
        load(path)


@pytest.mark.parametrize(
    "content", [b"", b"no picture at all" * 50, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_no_picture(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(PermanentError, match=r"a\.png is no picture"):
        load(tmp_path / "a.png")


def test_missing(tmp_path):
    with pytest.raises(PermanentError, match=r"a\.png is missing"):
        load(tmp_path / "a.png")


def test_square_takes_the_middle():
    picture = Image.new("RGB", (300, 100), "black")
    picture.paste((0, 200, 0), (100, 0, 200, 100))
    cropped = square(picture, 64)
    assert cropped.size == (64, 64)
    assert near(cropped, (2, 32), (0, 200, 0)) and near(cropped, (61, 32), (0, 200, 0))


@pytest.mark.parametrize("size", [64, 256])
def test_default_avatar_talks_with_its_mouth_alone(size):
    closed, opened = (np.asarray(face).astype(int) for face in talking_avatar(size, [0, 1]))
    changed = np.argwhere(np.abs(closed - opened).max(axis=2) > 2) / size
    left, top, right, bottom = MOUTH_BOX
    assert len(changed)
    assert changed[:, 0].min() >= top and changed[:, 0].max() < bottom
    assert changed[:, 1].min() >= left and changed[:, 1].max() < right
    assert np.array_equal(np.asarray(default_avatar(size)), closed)
