"""From pictures of every kind to portraits, with the real landmarker; the face itself is found by a stand-in."""

import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from face_networks import ASTRONAUT, astronaut, make_face_analysis
from PIL import Image

from hallo2.face import FaceAnalysis, FaceError, prepare_portrait, region_masks
from hallo2.face.detection import DetectedFace
from hallo2.face.framing import Square, largest_square, square_around
from hallo2.face.landmarks import HeadPose
from hallo2.face.mesh import Box
from hallo2.face.picture import BACKGROUND, MAX_PIXELS, open_picture
from hallo2.face.suitability import check_size, edge_warnings, only_face, pose_warnings, square_warnings

SQUARE = (138, 37, 176)
LARGE = astronaut().resize((2048, 2048))


@pytest.fixture(scope="module")
def analyse(tmp_path_factory):
    """Makes the networks that find `faces` in a picture of `size`."""

    def make(faces=(ASTRONAUT,), size=(512, 512)):
        folder = make_face_analysis(tmp_path_factory.mktemp("face_analysis"), faces, picture_size=size)
        return FaceAnalysis.from_pretrained(folder)

    return make


@pytest.fixture(scope="module")
def analysis(analyse):
    """Finds the astronaut's face in pictures of any size that show as much as the original."""
    return analyse()


def near(square, wanted=SQUARE, scale=1.0):
    return (square.left, square.top, square.side) == pytest.approx([edge * scale for edge in wanted], abs=5 * scale)


def error_of(picture, analysis, **options):
    with pytest.raises(FaceError) as caught:
        prepare_portrait(picture, analysis, **options)
    return str(caught.value)


def test_portrait_is_the_square_around_the_face(analysis):
    prepared = prepare_portrait(LARGE, analysis)
    portrait, square = prepared.portrait, prepared.square
    assert prepared.warnings == ()
    assert near(square, scale=4)
    box = (square.left, square.top, square.left + square.side, square.top + square.side)
    assert prepared.picture.tobytes() == LARGE.crop(box).resize((512, 512), Image.Resampling.BILINEAR).tobytes()
    assert torch.equal(portrait.pixels, torch.from_numpy(np.array(prepared.picture)).permute(2, 0, 1) / 255 * 2 - 1)
    assert (portrait.pixels.dtype, portrait.pixels.shape) == (torch.float32, (3, 512, 512))


def test_masks_are_those_of_the_square(analysis):
    prepared = prepare_portrait(LARGE, analysis, face_expand_ratio=1.1)
    portrait, square = prepared.portrait, prepared.square
    landmarks = analysis.landmarker(np.asarray(LARGE), Box(*ASTRONAUT.scaled(4).box))
    face = landmarks.silhouette
    assert face.side / square.side == pytest.approx(0.6, abs=0.002)
    masks = region_masks(landmarks.points - (square.left, square.top), square.side, square.side, 512, 1.1)
    assert torch.equal(portrait.face_region, masks.face_region)
    for ours, theirs in zip(
        portrait.full_masks + portrait.face_masks + portrait.lip_masks, masks.full + masks.face + masks.lip, strict=True
    ):
        assert torch.equal(ours, theirs)
    assert portrait.face_region.mean() == pytest.approx(face.width * face.height * 1.1**2 / square.side**2, rel=0.03)


def test_embedding_is_that_of_the_whole_picture(analysis):
    whole, part = (prepare_portrait(LARGE, analysis, crop=crop).portrait.face_embedding for crop in ("none", "face"))
    points = np.array(ASTRONAUT.scaled(4).points)
    assert (whole.shape, whole.dtype) == ((512,), torch.float32)
    assert torch.equal(whole, part)
    assert whole.numpy() == pytest.approx(analysis.recogniser(np.asarray(LARGE), points), rel=1e-3, abs=1e-2)


@pytest.mark.parametrize("size", [64, 256, 768])
def test_other_sizes(analysis, size):
    portrait = prepare_portrait(astronaut(), analysis, size=size).portrait
    assert portrait.pixels.shape == (3, size, size)
    assert portrait.face_region.shape == (1, size, size)
    assert portrait.lip_masks[0].shape == (1, (size // 8) ** 2)


@pytest.mark.parametrize("size", [0, -512, 500])
def test_size_must_be_a_multiple_of_64(analysis, size):
    with pytest.raises(ValueError, match=f"size is {size}, and it must be a multiple of 64"):
        prepare_portrait(astronaut(), analysis, size=size)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.jpg", {"quality": 95}),
        ("a.webp", {"quality": 95}),
        ("a.bmp", {}),
        ("a.tiff", {}),
        ("a.gif", {}),
        ("a.jp2", {}),
        ("a.ppm", {}),
        ("a.avif", {}),
    ],
)
def test_every_format(analysis, tmp_path, name, options):
    astronaut().save(tmp_path / name, **options)
    assert near(prepare_portrait(tmp_path / name, analysis).square)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "PA"])
def test_every_mode(analysis, mode):
    step = "L" if mode in {"LA", "PA"} else "RGB"
    assert near(prepare_portrait(astronaut().convert(step).convert(mode), analysis).square)


@pytest.mark.parametrize(
    "values",
    [lambda grey: (grey * 257).astype(np.uint16), lambda grey: (grey * 257).astype(np.int32), lambda grey: grey / 255],
    ids=["I;16", "I", "F"],
)
def test_grey_of_more_than_eight_bits(analysis, values):
    grey = np.asarray(astronaut().convert("L")).astype(np.float32)
    deep = prepare_portrait(Image.fromarray(values(grey)), analysis)
    assert deep.picture.tobytes() == prepare_portrait(astronaut().convert("L"), analysis).picture.tobytes()


def test_large_grey_pictures_of_many_bits_take_little_memory():
    ramp = np.arange(2048, dtype=np.uint16) * 32
    picture = Image.fromarray(np.broadcast_to(ramp, (4096, 2048)).copy())
    tracemalloc.start()
    try:
        upright = open_picture(picture, "ramp")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 16 << 20  # as real numbers, the picture would take four times that
    expected = np.floor(ramp / 65535 * 255 + 0.5).astype(np.uint8)
    assert np.array_equal(np.asarray(upright), np.broadcast_to(expected[:, None], (4096, 2048, 3)))


def test_first_frame_of_a_moving_picture(analysis, tmp_path):
    astronaut().save(tmp_path / "a.webp", save_all=True, append_images=[Image.new("RGB", (512, 512))], lossless=True)
    moving = prepare_portrait(tmp_path / "a.webp", analysis)
    assert moving.picture.tobytes() == prepare_portrait(astronaut(), analysis).picture.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_is_turned_as_a_person_sees_it(analysis, tmp_path, orientation):
    undo = [None, 0, 3, 1, 5, 2, 6, 4]
    turned = astronaut()
    if undo[orientation - 1] is not None:
        turned = turned.transpose(Image.Transpose(undo[orientation - 1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned.save(tmp_path / "a.png", exif=exif)
    seen = prepare_portrait(tmp_path / "a.png", analysis)
    assert seen.picture.tobytes() == prepare_portrait(astronaut(), analysis).picture.tobytes()


def test_background_shows_through_what_is_transparent(analysis):
    cut_out = astronaut().convert("RGBA")
    cut_out.paste((0, 0, 0, 0), (0, 0, 512, 45))
    assert prepare_portrait(cut_out, analysis).picture.getpixel((256, 0)) == BACKGROUND


def png_that_says(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "me.png is no picture that can be read: use PNG, JPEG or WebP"),
        (b"a letter", "me.png is no picture that can be read: use PNG, JPEG or WebP"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "me.png is no picture that can be read: use PNG, JPEG or WebP",
        ),
        (
            png_that_says(9000, 9000),
            f"me.png has 9000 x 9000 pixels, and {MAX_PIXELS} in all are the most that is read",
        ),
        (png_that_says(10000, 10000), f"me.png has too many pixels: {MAX_PIXELS} at most are read, so make it smaller"),
        (png_that_says(60000, 60000), f"me.png has too many pixels: {MAX_PIXELS} at most are read, so make it smaller"),
        (png_that_says(600, 600), "me.png is damaged or cut off"),
    ],
    ids=["empty", "text", "program", "large", "larger", "bomb", "cut off"],
)
def test_files_that_cannot_be_read(analysis, tmp_path, content, message):
    (tmp_path / "me.png").write_bytes(content)
    assert error_of(tmp_path / "me.png", analysis).startswith(message)


def test_missing_file(analysis, tmp_path):
    assert error_of(tmp_path / "me.png", analysis) == "me.png is missing"


def test_messages_use_the_name_that_is_given(analyse):
    nobody = analyse(faces=())
    cure = "use a picture of one person who looks at the camera, or say with face_box where the face is"
    assert error_of(astronaut(), nobody) == f"the picture shows no face: {cure}"
    assert error_of(astronaut(), nobody, name="me.png") == f"me.png shows no face: {cure}"


def pair(distance=512):
    picture = Image.new("RGB", (1024, 512))
    picture.paste(astronaut())
    picture.paste(astronaut(), (distance, 0))
    return picture


TWO = (ASTRONAUT, ASTRONAUT.moved(512, 0))


def test_two_faces_of_like_size(analyse):
    assert error_of(pair(), analyse(TWO, (1024, 512)), name="us.png") == (
        "us.png shows two faces of like size, [179, 66, 269, 181] and [691, 66, 781, 181]: say with face_box which one "
        "speaks, or cut it out with crop"
    )


def test_face_box_says_which_of_two_faces_speaks(analyse):
    prepared = prepare_portrait(pair(), analyse(TWO, (1024, 512)), face_box=[690, 60, 780, 190])
    assert near(prepared.square, (138 + 512, 37, 176))


def test_face_box_needs_no_detector(analysis, analyse):
    boxed = prepare_portrait(LARGE, analyse(faces=()), face_box=[600, 200, 1200, 800])
    found = prepare_portrait(LARGE, analysis)
    assert boxed.square == found.square
    difference = boxed.portrait.face_embedding - found.portrait.face_embedding
    assert difference.norm() < 0.1 * found.portrait.face_embedding.norm()


def test_crop_says_which_of_two_faces_speaks(analyse):
    prepared = prepare_portrait(pair(), analyse(TWO, (1024, 512)), crop=[600, 0, 300])
    assert prepared.square == Square(600, 0, 300)


def test_no_face_in_the_crop(analysis):
    message = error_of(astronaut(), analysis, crop=[300, 200, 200], name="me.png")
    assert message.startswith("the crop [300, 200, 200] of me.png shows no face: ")


def test_much_smaller_second_face_is_left_alone():
    large, small = (DetectedFace(Box(0, 0, side, side), np.zeros((5, 2)), 0.9) for side in (100, 70))
    assert only_face([small, large], "us.png") is large
    alike = DetectedFace(Box(0, 0, 100, 50), np.zeros((5, 2)), 0.9)
    with pytest.raises(FaceError, match="two faces of like size"):
        only_face([alike, large], "us.png")


def test_face_that_is_too_small(analyse):
    small = astronaut().resize((256, 256))
    assert error_of(small, analyse([ASTRONAUT.scaled(0.5)], (256, 256)), name="me.png") == (
        "the face in me.png is 58 pixels large and 64 are needed: use a larger picture of it"
    )
    check_size(Box(0, 0, 20, 64), "me.png")


def test_small_face_is_enlarged_with_a_warning(analysis):
    (warning,) = prepare_portrait(astronaut(), analysis, name="me.png").warnings
    start = "what is animated of me.png is 17"
    end = " pixels wide and is enlarged to 512: a larger picture gives a sharper video"
    assert (warning[: len(start)], warning[len(start) + 1 :]) == (start, end)


def test_head_that_is_tilted(analysis):
    box = [150, 50, 300, 200]
    tilted = prepare_portrait(LARGE.rotate(40, center=(896, 500)), analysis, face_box=[4 * edge for edge in box])
    (warning,) = tilted.warnings
    assert warning.startswith("the face in the picture is tilted by 3")
    assert warning.endswith(" degrees: one below 30 moves better")
    message = error_of(
        LARGE.rotate(70, center=(896, 500)), analysis, face_box=[4 * edge for edge in box], name="me.png"
    )
    assert message.startswith("the face in me.png is tilted by 6")
    assert message.endswith(" and 45 are the most that can be animated: use a picture that looks at the camera")


@pytest.mark.parametrize("sign", [-1, 1])
def test_head_that_is_turned_away(sign):
    assert pose_warnings(HeadPose(29 * sign, 29 * sign, 29 * sign), "me.png") == []
    assert pose_warnings(HeadPose(40 * sign, 0, 0), "me.png") == [
        "the face in me.png is turned to the side by 40 degrees: one below 30 moves better"
    ]
    for pose, how in ((HeadPose(50 * sign, 0, 0), "to the side"), (HeadPose(0, 50 * sign, 0), "up or down")):
        with pytest.raises(FaceError) as caught:
            pose_warnings(pose, "me.png")
        assert str(caught.value) == (
            f"the face in me.png is turned {how} by 50 degrees and 45 are the most that can be animated: use a picture "
            "that looks at the camera"
        )


def test_face_that_the_edge_of_the_picture_cuts_off(analyse):
    chinless = analyse(size=(512, 165))
    assert error_of(astronaut().crop((0, 0, 512, 165)), chinless, name="me.png") == (
        "the face is cut off at the bottom of me.png: use a picture that shows all of it"
    )


@pytest.mark.parametrize(
    ("frame", "edges"),
    [
        ((10, 0, 100, 100), "left"),
        ((0, 20, 100, 100), "top"),
        ((0, 0, 90, 80), "right and bottom"),
        ((1, 0, 80, 100), "left and right"),
    ],
)
def test_edges_that_cut_a_face_off_are_named(frame, edges):
    with pytest.raises(FaceError) as caught:
        edge_warnings(Box(0, 0, 100, 100), Box(*frame), "me.png", cropped=False)
    assert str(caught.value) == f"the face is cut off at the {edges} of me.png: use a picture that shows all of it"


def test_face_that_touches_the_edge():
    face = Box(0, 0, 100, 100)
    assert edge_warnings(face, Box(0, 0, 100, 100), "me.png", cropped=False) == []
    assert edge_warnings(face, Box(4, 0, 100, 100), "me.png", cropped=False) == [
        "the face touches the edge at the left of me.png: some room around it looks better"
    ]


def test_crop_that_cuts_the_face_off(analysis):
    assert error_of(astronaut(), analysis, crop=[140, 20, 120], name="me.png") == (
        "the face is cut off at the right and bottom of the crop of me.png: move the crop"
    )


def test_whole_picture(analysis, analyse):
    prepared = prepare_portrait(LARGE, analysis, crop="none", name="me.png")
    assert prepared.square == Square(0, 0, 2048)
    (warning,) = prepared.warnings
    assert re.fullmatch(r"the face takes 2\d% of the side of what is animated of me\.png: 50% to 70% is best", warning)
    wide = LARGE.crop((0, 0, 2048, 1000))
    prepared = prepare_portrait(wide, analyse(size=(512, 250)), crop="none")
    assert (prepared.square.top, prepared.square.side) == (0, 1000)
    assert prepared.square.left + 500 == pytest.approx(4 * 225.5, abs=8)


def test_crop_is_kept_to_the_pixel(analysis):
    prepared = prepare_portrait(LARGE, analysis, crop=[500, 100, 800], name="me.png")
    assert prepared.square == Square(500, 100, 800)
    assert prepared.warnings == ()


def test_picture_too_narrow_for_the_square(analyse):
    narrow = LARGE.crop((680, 200, 1120, 800))
    prepared = prepare_portrait(narrow, analyse([ASTRONAUT.scaled(4).moved(-680, -200)], (440, 600)), name="me.png")
    assert (prepared.square.left, prepared.square.side) == (0, 440)
    (warning,) = prepared.warnings
    assert warning.startswith("the face takes 9")
    assert warning.endswith("of the side of what is animated of me.png: 50% to 70% is best")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": [0, 0]}, "crop is [0, 0]: use left, top and side of a square in whole pixels"),
        ({"crop": [0, 0, 99.5]}, "crop is [0, 0, 99.5]: use left, top and side of a square in whole pixels"),
        ({"crop": "centre"}, 'crop is "centre": use "face", "none", or left, top and side of a square in whole pixels'),
        (
            {"crop": [400, 0, 200]},
            "crop is [400, 0, 200], left, top and side, and me.png has but 512 x 512 pixels: choose a square in it",
        ),
        (
            {"crop": [-1, 0, 200]},
            "crop is [-1, 0, 200], left, top and side, and me.png has but 512 x 512 pixels: choose a square in it",
        ),
        (
            {"crop": [0, 0, 0]},
            "crop is [0, 0, 0], left, top and side, and me.png has but 512 x 512 pixels: choose a square in it",
        ),
        ({"face_box": [0, 0, 1]}, "face_box is [0, 0, 1]: use left, top, right and bottom in pixels"),
        (
            {"face_box": [400, 100, 600, 300]},
            "face_box is [400, 100, 600, 300], left, top, right and bottom, and me.png has but 512 x 512 pixels: "
            "choose a box in it",
        ),
        (
            {"face_box": [300, 100, 200, 300]},
            "face_box is [300, 100, 200, 300], left, top, right and bottom, and me.png has but 512 x 512 pixels: "
            "choose a box in it",
        ),
        (
            {"face_box": [320, 300, 500, 500]},
            "the face at [320, 300, 500, 500] in me.png is not clear enough to place its eyes and mouth: use a picture "
            "that looks at the camera, with nothing before the face",
        ),
    ],
)
def test_places_that_are_none(analysis, options, message):
    assert error_of(astronaut(), analysis, name="me.png", **options) == message


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (70, 70)])
def test_pictures_of_no_use(analysis, analyse, size):
    assert "shows no face" in error_of(Image.new("RGB", size), analyse(faces=()))
    whole = [0, 0, *size]
    assert error_of(Image.new("RGB", size), analysis, face_box=whole).startswith("the face ")


def test_square_stays_in_the_picture():
    assert square_around(Box(400, 400, 460, 460), 1000, 800) == Square(380, 380, 100)
    assert square_around(Box(0, 740, 60, 800), 1000, 800) == Square(0, 700, 100)
    assert square_around(Box(940, 10, 1000, 70), 1000, 800) == Square(900, 0, 100)
    assert square_around(Box(100, 100, 700, 700), 1000, 800) == Square(0, 0, 800)
    assert largest_square(Box(900, 100, 1000, 200), 1000, 800) == Square(200, 0, 800)


@pytest.mark.parametrize(("share", "warned"), [(0.49, True), (0.5, False), (0.7, False), (0.71, True)])
def test_share_of_the_face(share, warned):
    warnings = square_warnings(Box(0, 0, 10, 1000 * share), Square(0, 0, 1000), 512, "me.png")
    assert bool(warnings) is warned
