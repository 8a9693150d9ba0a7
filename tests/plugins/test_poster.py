"""The poster plugin."""

import numpy as np
import pytest
from PIL import Image

from atenea.media.mux import VideoWriter


@pytest.fixture
def film(tmp_path):
    """Four seconds; each frame is brighter than the one before it."""
    with VideoWriter(tmp_path / "film.mp4", 64, 64, 25, crf=4) as writer:
        for index in range(100):
            writer.write(np.full((64, 64, 3), 20 + index * 2, np.uint8))
    return tmp_path / "film.mp4"


@pytest.mark.parametrize(("at", "frame"), [(None, 25), (0, 0), (1.0, 25), (1.03, 25), (2.5, 62), (3.99, 99), (1e9, 99)])
def test_frame(load_plugin, make_context, film, at, frame):
    poster = load_plugin("poster")
    ctx = make_context(poster, at=at)
    assert poster.post(film, ctx) is None
    assert list(ctx.attachments) == [".jpg"]
    with Image.open(ctx.attachments[".jpg"]) as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 64))
        assert abs(np.asarray(picture).mean() - (20 + 2 * frame)) <= 1


def test_quality(load_plugin, make_context, tmp_path):
    poster = load_plugin("poster")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with VideoWriter(tmp_path / "film.mp4", 64, 64, 25) as writer:
        writer.write(noise)
    sizes = []
    for quality in (20, 95):
        ctx = make_context(poster, quality=quality)
        poster.post(tmp_path / "film.mp4", ctx)
        sizes.append(ctx.attachments[".jpg"].stat().st_size)
    assert sizes[0] * 2 < sizes[1]
