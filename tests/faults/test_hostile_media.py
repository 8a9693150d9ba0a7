"""Pictures and sounds made to hurt: refused in a sentence, in little memory, before decoding where that is known."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from atenea.errors import PermanentError
from atenea.media import audio
from atenea.media.audio import write_wav
from atenea.media.pictures import load_avatar

PROCESS_MEBIBYTES = 100
"""Of a process that has loaded what decodes, with nothing decoded."""

BYTES_FOR_A_PIXEL = 10
"""What decoding takes at its peak: 1 GB for the 100 million pixels that are the most by default."""

MUTATIONS = 500
HOURS = 3600 * 32_000
"""Bytes of an hour of 16 kHz, mono, 16 bit."""


def read(kind: str, file: Path, limit: float) -> tuple[str, int]:
    """What came of reading the file in a process of its own, and its peak memory in MiB."""
    program = Path(__file__).with_name("hostile_media.py")
    ran = subprocess.run(
        [sys.executable, str(program), kind, str(file), str(limit)], capture_output=True, text=True, check=True
    )
    result = json.loads(ran.stdout)
    return result["came"], result["mebibytes"]


# Pictures


def png_header(side: int) -> bytes:
    body = b"IHDR" + struct.pack(">II", side, side) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def as_bytes(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def noise(mode: str = "RGB", side: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).convert(mode)


def jpeg_header(side: int) -> bytes:
    data = bytearray(as_bytes(noise(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


def webp_header(side: int) -> bytes:
    data = bytearray(as_bytes(noise(), "WEBP"))
    at = data.index(b"\x9d\x01\x2a") + 3
    data[at : at + 4] = struct.pack("<HH", side, side)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (
            "bomb.png",
            png_header(100_000) + png_chunk(b"IDAT", zlib.compress(bytes(1 << 20), 9)) + png_chunk(b"IEND", b""),
        ),
        ("bomb.jpg", jpeg_header(65_000)),
        ("bomb.webp", webp_header(16_000)),
        (
            "bomb.bmp",
            as_bytes(noise(), "BMP")[:18] + struct.pack("<ii", 90_000, 90_000) + as_bytes(noise(), "BMP")[26:],
        ),
        ("bomb.ppm", b"P6 100000 100000 255\n" + bytes(1000)),
    ],
)
def test_headers_that_promise_too_much_are_refused_before_decoding(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PermanentError, match=rf"^{name} has .*pixels"):
        load_avatar(tmp_path / name, max_pixels=100_000_000)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "F"])
def test_a_bomb_within_the_limit_takes_a_few_bytes_for_a_pixel(tmp_path: Path, mode: str) -> None:
    form = "tiff" if mode == "F" else "png"
    path, side = tmp_path / f"a.{form}", 2500
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new(mode, (side, side)).save(path, exif=turned)
    came, peak = read("picture", path, side * side)
    assert came == f"({side}, {side})"
    assert peak < PROCESS_MEBIBYTES + BYTES_FOR_A_PIXEL * side * side / 2**20


def test_what_a_picture_brings_along_is_not_unpacked(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(100 << 20))
    good = as_bytes(noise(), "PNG")
    chunks = (png_chunk(name, b"x\0\0" + bomb) for name in (b"iCCP", b"zTXt"))
    (tmp_path / "a.png").write_bytes(good[:33] + b"".join(chunks) + good[33:])
    came, peak = read("picture", tmp_path / "a.png", 1_000_000)
    assert came == "(40, 40)" or came.startswith("refused: a.png is "), came
    assert peak < PROCESS_MEBIBYTES


def test_a_wrong_suffix_and_a_second_format_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(as_bytes(noise(), "JPEG") + b"PK\x03\x04" + b"%PDF-1.7 <?php <script>" * 50)
    assert load_avatar(tmp_path / "a.png", max_pixels=10_000).size == (40, 40)
    for data in (
        b"GIF89a" + bytes(100),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n",
        b"\x7fELF" + bytes(60),
    ):
        (tmp_path / "b.png").write_bytes(data)
        with pytest.raises(PermanentError, match=r"^b\.png "):
            load_avatar(tmp_path / "b.png", max_pixels=10_000)


def samples_of_pictures() -> list[bytes]:
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "x" * 20
    more: dict[str, Any] = {"save_all": True, "append_images": [noise()]}
    return [
        as_bytes(noise(), "PNG", exif=turned, icc_profile=b"no profile" * 20),
        as_bytes(noise("P"), "PNG", transparency=3),
        as_bytes(noise(), "PNG", **more),
        as_bytes(noise("L").convert("I;16"), "PNG"),
        as_bytes(noise(), "JPEG", exif=turned, icc_profile=b"no profile" * 20),
        as_bytes(noise("CMYK"), "JPEG", progressive=True),
        as_bytes(noise("RGBA"), "WEBP", exif=turned, **more),
        as_bytes(noise("P"), "GIF", **more),
        as_bytes(noise(), "TIFF", exif=turned, compression="tiff_lzw"),
        as_bytes(noise("L").convert("F"), "TIFF"),
        as_bytes(noise(), "JPEG2000"),
        as_bytes(noise(), "AVIF"),
    ]


def damaged(sample: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, most of them near the beginning, or a piece taken out, put in, or cut off."""
    data = bytearray(sample)
    for _ in range(draw.randint(1, 5)):
        at = draw.randrange(draw.choice((len(data), min(200, len(data)))) or 1)
        match draw.randrange(5):
            case 0 | 1:
                data[at : at + 1] = draw.randbytes(1)
            case 2:
                data[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
            case 3:
                data[at : at + draw.randrange(50)] = draw.randbytes(draw.randrange(30))
            case 4:
                del data[draw.randrange(len(data) + 1) :]
    return bytes(data)


def test_damaged_pictures_are_pictures_or_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    draw = random.Random(3)
    samples, path, came = samples_of_pictures(), tmp_path / "a.png", Counter[str]()
    for _ in range(MUTATIONS):
        path.write_bytes(damaged(draw.choice(samples), draw))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of metadata
            try:
                load_avatar(path, max_pixels=1_000_000)
                came["pictures"] += 1
            except PermanentError as error:
                assert str(error).startswith("a.png ")
                came["refused"] += 1
    capfd.readouterr()  # libtiff's and libjpeg's own words
    assert min(came.values()) > MUTATIONS // 20, came
    record_property("Damaged pictures and sounds", (MUTATIONS, "pictures"))


# Sounds


def wav(
    rate: int = 16_000, *, data: bytes = b"\1\2" * 16_000, size: int | None = None, channels: int = 1, bits: int = 16
) -> bytes:
    """A WAV file, whose header says what it likes."""
    code = 3 if bits == 32 else 1
    block = channels * bits // 8
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, code, channels, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    body = b"WAVE" + head + b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (wav(0), "a.wav is no sound or video file"),
        (wav(1), "a.wav has 1 samples per second, where 1,000 to 1,000,000 are read"),
        (wav(8), "a.wav has 8 samples per second"),
        (wav(96_000_000), "a.wav has 96,000,000 samples per second"),
        (wav(channels=64), "a.wav has 64 channels, where 32 are the most"),
        (wav(channels=0), "a.wav has no sound in it"),
        (wav(size=HOURS), "a.wav ends too early: it should last 3600.00 seconds, and only 1.00 are there"),
        (wav(data=struct.pack("<f", float("nan")) * 16_000, bits=32), "a.wav is damaged: it holds samples that are no"),
        (
            wav(data=struct.pack("<f", float("-inf")) * 16_000, bits=32),
            "a.wav is damaged: it holds samples that are no",
        ),
    ],
)
def test_sounds_that_nobody_could_hear(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(PermanentError) as caught:
        write_wav(tmp_path / "a.wav", tmp_path / "out.wav", max_seconds=14_400)
    assert str(caught.value).startswith(says)
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize(
    ("data", "samples"),
    [
        (wav(1_000_000, data=b"\1\2" * 1_000_000), 16_000),
        (wav(data=b"\1\2"), 1),
        (wav(channels=8, data=b"\1\2" * 8 * 16_000), 16_000),
        (wav(size=0xFFFFFFFF), 16_000),
        (wav(size=0x7FFFFFFF), 16_000),
    ],
)
def test_sounds_that_are_only_odd(tmp_path: Path, data: bytes, samples: int) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    assert write_wav(tmp_path / "a.wav", tmp_path / "out.wav", max_seconds=14_400) == samples


@pytest.mark.parametrize("hours", [5, 24])
def test_a_day_of_silence_in_a_sparse_file_is_refused_before_decoding(tmp_path: Path, hours: int) -> None:
    path = tmp_path / "day.wav"
    with path.open("wb") as file:
        file.write(wav(data=b"", size=hours * HOURS))
        file.truncate(44 + hours * HOURS)
    decoded = 0

    def progress(_fraction: float) -> None:
        nonlocal decoded
        decoded += 1

    with pytest.raises(PermanentError, match=r"^day\.wav is longer than 14400 seconds, the most allowed$"):
        write_wav(path, tmp_path / "out.wav", max_seconds=14_400, progress=progress)
    assert decoded == 0


def test_a_file_in_which_libav_searches_for_ever_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "zeros.wav"
    with path.open("wb") as file:
        file.write(wav(data=b"")[:36])
        file.truncate(2 << 30)  # 250 million chunks of no bytes
    monkeypatch.setattr(audio, "_OPEN_SECONDS", 0.2)
    with pytest.raises(PermanentError, match=r"^zeros\.wav is "):
        write_wav(path, tmp_path / "out.wav", max_seconds=14_400)


def test_the_cover_of_a_sound_is_not_its_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.mka"
    with av.open(str(path), "w", format="matroska") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 64
        cover.pix_fmt = "yuvj420p"
        sound = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 16_000), 9, np.int16), "s16", "mono")
        frame.sample_rate = 16_000
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(cover.encode())
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert write_wav(path, tmp_path / "out.wav") == 16_000


def samples_of_sounds(folder: Path) -> list[bytes]:
    tone = (8000 * np.sin(np.arange(8000) / 5)).astype(np.int16)
    found = [wav(data=tone.tobytes()), wav(data=tone.tobytes(), channels=8)]
    for name, codec, form in (
        *(("a.mp3", "libmp3lame", "s16p"), ("a.flac", "flac", "s16")),
        *(("a.m4a", "aac", "fltp"), ("a.opus", "libopus", "s16")),
    ):
        rate = 48_000 if codec == "libopus" else 16_000
        with av.open(str(folder / name), "w", format="ogg" if name == "a.opus" else None) as container:
            stream = container.add_stream(codec, rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(tone[np.newaxis], "s16", "mono")
            frame.sample_rate = rate
            for piece in av.AudioResampler(form, "mono", rate).resample(frame):
                container.mux(stream.encode(piece))
            container.mux(stream.encode())
        found.append((folder / name).read_bytes())
    return found


def test_damaged_sounds_are_sounds_or_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    draw = random.Random(3)
    samples, path, came = samples_of_sounds(tmp_path), tmp_path / "a.bin", Counter[str]()
    for _ in range(MUTATIONS // 3):
        path.write_bytes(damaged(draw.choice(samples), draw))
        try:
            write_wav(path, tmp_path / "out.wav", max_seconds=600)
            came["sounds"] += 1
        except PermanentError as error:
            assert str(error).startswith("a.bin ")
            came["refused"] += 1
    capfd.readouterr()
    assert min(came.values()) > MUTATIONS // 60, came
    record_property("Damaged pictures and sounds", (MUTATIONS // 3, "sounds"))
