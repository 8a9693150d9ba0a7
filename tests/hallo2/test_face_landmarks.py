"""MediaPipe's real networks on a real face, against what MediaPipe itself finds in it."""

import math
import zipfile

import numpy as np
import pytest
from face_networks import ASTRONAUT, LANDMARKER, astronaut
from PIL import Image

from hallo2.face.landmarks import FaceLandmarker, HeadPose
from hallo2.face.mesh import CHIN, FIVE_POINTS, FOREHEAD, LEFT_EDGE, RIGHT_EDGE, Box

BOX = Box(*ASTRONAUT.box)


@pytest.fixture(scope="module")
def landmarker():
    return FaceLandmarker(LANDMARKER)


def pixels(picture):
    return np.asarray(picture)


def moved(box, x, y):
    return Box(box.left + x, box.top + y, box.right + x, box.bottom + y)


def test_landmarks_lie_where_one_sees_them(landmarker):
    points = landmarker(pixels(astronaut()), BOX).points
    assert points.shape == (478, 2)
    assert np.abs(points[list(FIVE_POINTS)] - ASTRONAUT.points).max() < 3
    assert points[CHIN] == pytest.approx((222, 178), abs=4)


def test_landmarks_are_those_that_mediapipe_finds(landmarker):
    expected = np.load(LANDMARKER.with_name("astronaut_landmarks.npy"))
    off = np.hypot(*(landmarker(pixels(astronaut()), BOX).points - expected).T)
    assert off.mean() < 0.5
    assert off.max() < 1.5


def test_silhouette_is_the_face(landmarker):
    assert landmarker(pixels(astronaut()), BOX).silhouette.overlap(BOX) > 0.85


def test_the_face_in_the_box_is_the_one(landmarker):
    pair = Image.new("RGB", (1024, 512))
    pair.paste(astronaut())
    pair.paste(astronaut(), (512, 0))
    alone = landmarker(pixels(astronaut()), BOX).points
    for x in (0, 512):
        assert np.abs(landmarker(pixels(pair), moved(BOX, x, 0)).points - alone - (x, 0)).max() < 5


def test_face_that_is_small_in_its_picture(landmarker):
    large = Image.new("RGB", (3000, 2000), (120, 130, 140))
    large.paste(astronaut(), (2200, 1200))
    found = landmarker(pixels(large), moved(BOX, 2200, 1200))
    alone = landmarker(pixels(astronaut()), BOX)
    assert np.abs(found.points - alone.points - (2200, 1200)).max() < 3
    assert found.pose.yaw == pytest.approx(alone.pose.yaw, abs=3)


def test_no_face_in_the_box(landmarker):
    assert landmarker(pixels(astronaut()), Box(350, 350, 450, 450)) is None
    assert landmarker(np.full((300, 200, 3), 128, np.uint8), Box(50, 50, 150, 180)) is None


def test_pose_of_a_face_that_looks_at_the_camera(landmarker):
    pose = landmarker(pixels(astronaut()), BOX).pose
    assert abs(pose.yaw) < 5
    assert abs(pose.pitch) < 15
    assert abs(pose.roll) < 5


@pytest.mark.parametrize("angle", [-40, -20, 20, 40])
def test_pose_of_a_tilted_head(landmarker, angle):
    straight = landmarker(pixels(astronaut()), BOX).pose
    tilted = landmarker(pixels(astronaut().rotate(angle, center=BOX.centre)), BOX).pose
    assert tilted.roll - straight.roll == pytest.approx(angle, abs=5)


def mesh(yaw=0.0, pitch=0.0, roll=0.0):
    """A face that was tilted, then nodded, then turned; x to the right, y down, z away."""
    x, y, z = (math.radians(angle) for angle in (pitch, yaw, roll))
    tilt = np.array([[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]])
    nod = np.array([[1, 0, 0], [0, math.cos(x), math.sin(x)], [0, -math.sin(x), math.cos(x)]])
    turn = np.array([[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]])
    points = np.zeros((478, 3))
    points[[LEFT_EDGE, RIGHT_EDGE, FOREHEAD, CHIN]] = [(-70, 0, 0), (70, 0, 0), (0, 90, 0), (0, -90, 0)]
    return points @ (turn @ nod @ tilt).T * (1, -1, -1)


@pytest.mark.parametrize("angle", [-80, -30, 0, 30, 80])
def test_pose_says_which_way_and_how_far(angle):
    assert vars(HeadPose.of_mesh(mesh(yaw=angle))) == pytest.approx({"yaw": angle, "pitch": 0, "roll": 0})
    assert vars(HeadPose.of_mesh(mesh(pitch=angle))) == pytest.approx({"yaw": 0, "pitch": angle, "roll": 0})
    assert vars(HeadPose.of_mesh(mesh(roll=angle))) == pytest.approx({"yaw": 0, "pitch": 0, "roll": angle})


def test_pose_of_a_head_that_is_turned_and_nods():
    pose = HeadPose.of_mesh(mesh(yaw=25, pitch=15))
    assert (pose.yaw, pose.pitch) == pytest.approx((25, 15))


def test_missing_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.task is missing"):
        FaceLandmarker(tmp_path / "none.task")


def with_a_wrong_byte(content):
    return content[:400_000] + bytes([content[400_000] ^ 1]) + content[400_001:]


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"no model", lambda c: c[:100_000], with_a_wrong_byte])
def test_damaged_model(tmp_path, damage):
    (tmp_path / "bad.task").write_bytes(damage(LANDMARKER.read_bytes()))
    with pytest.raises(
        ValueError, match=r"bad\.task is damaged or no face landmarker: download the model bundle again"
    ):
        FaceLandmarker(tmp_path / "bad.task")


def test_other_models_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "hand.task", "w") as archive:
        archive.writestr("hand_landmarks_detector.tflite", b"")
    with pytest.raises(ValueError, match=r"hand\.task is damaged or no face landmarker"):
        FaceLandmarker(tmp_path / "hand.task")
