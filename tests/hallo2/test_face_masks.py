"""The masks of the face and the lips, to the last bit, and at other sizes."""

import golden
import numpy as np
import pytest
import torch

from hallo2.face import region_masks

CASES, RESULTS = golden.load("masks")
KINDS = ("full", "face", "lip")


def landmarks(box, lips):
    """A face whose silhouette fills `box` and whose lips fill `lips`: left, top, right, bottom."""
    points = np.full((478, 2), (lips[0], lips[1]), np.float64)
    points[list(CASES["silhouette_ids"])] = box[:2]
    points[CASES["silhouette_ids"][0]] = box[2:]
    points[CASES["lip_ids"][0]] = lips[2:]
    return points


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_masks_are_those_of_the_published_code(case):
    name, resolution = case["name"], case["resolution"]
    points = RESULTS[f"{name}.landmarks"].numpy()
    masks = region_masks(points, case["height"], case["width"], resolution, case["face_expand_ratio"])
    assert masks.face_region.shape == (1, resolution, resolution)
    assert torch.equal(masks.face_region[0], RESULTS[f"{name}.face_region"] / 255)
    for kind in KINDS:
        for level, mask in enumerate(getattr(masks, kind)):
            assert torch.equal(mask, RESULTS[f"{name}.mask.{kind}.{level}"]), f"{kind} {level}"


@pytest.mark.parametrize("resolution", [64, 128, 192, 320, 768, 1024])
def test_every_multiple_of_64_has_its_masks(resolution):
    masks = region_masks(landmarks((60, 60, 200, 220), (100, 170, 160, 190)), 256, 256, resolution)
    assert masks.face_region.shape == (1, resolution, resolution)
    for kind in KINDS:
        levels = getattr(masks, kind)
        assert [tuple(mask.shape) for mask in levels] == [(1, (resolution // 8 // 2**k) ** 2) for k in range(4)]
        assert all(mask.dtype == torch.float32 and mask.min() >= 0 and mask.max() <= 1 for mask in levels)


def test_box_grows_about_its_middle():
    region = region_masks(landmarks((100, 100, 200, 300), (140, 220, 160, 230)), 512, 512, 512).face_region[0]
    rows, columns = torch.nonzero(region.sum(1)).flatten(), torch.nonzero(region.sum(0)).flatten()
    assert (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1) == (90, 210, 80, 320)
    assert set(region.unique().tolist()) == {0.0, 1.0}


def test_box_that_would_leave_the_picture_is_moved_into_it():
    region = region_masks(landmarks((0, 400, 100, 512), (40, 470, 60, 480)), 512, 512, 512).face_region[0]
    rows, columns = torch.nonzero(region.sum(1)).flatten(), torch.nonzero(region.sum(0)).flatten()
    assert (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1) == (0, 120, 378, 512)


def test_face_larger_than_the_picture_fills_it():
    region = region_masks(landmarks((-10, 10, 270, 250), (100, 170, 160, 190)), 256, 256, 256).face_region
    assert torch.equal(region, torch.ones(1, 256, 256))


def test_lips_are_not_in_the_face_and_neither_in_the_rest():
    masks = region_masks(landmarks((60, 60, 200, 220), (100, 170, 160, 190)), 256, 256)
    x, y = 130 * 64 // 256, 180 * 64 // 256
    at_mouth = y * 64 + x
    assert masks.lip[0][0, at_mouth] == 1
    assert masks.face[0][0, at_mouth] == 0
    corner = 0
    assert (masks.full[0][0, corner], masks.face[0][0, corner], masks.lip[0][0, corner]) == (1, 0, 0)


@pytest.mark.parametrize("resolution", [0, -64, 100, 511])
def test_resolution_must_be_a_multiple_of_64(resolution):
    with pytest.raises(ValueError, match=f"resolution is {resolution}, and it must be a multiple of 64"):
        region_masks(landmarks((60, 60, 200, 220), (100, 170, 160, 190)), 256, 256, resolution)


def test_other_landmarks_are_refused():
    with pytest.raises(ValueError, match=r"landmarks has shape \(68, 2\)"):
        region_masks(np.zeros((68, 2)), 256, 256)
