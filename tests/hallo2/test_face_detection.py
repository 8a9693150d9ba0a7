"""SCRFD's and ArcFace's arithmetic, with networks whose outputs are known."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from face_networks import ASTRONAUT, Face, arcface_projection, astronaut, make_arcface, make_scrfd, save_network
from onnx import TensorProto, helper, numpy_helper

from hallo2.face.analysis import FaceAnalysis
from hallo2.face.detection import FaceDetector
from hallo2.face.mesh import Box
from hallo2.face.recognition import FaceRecogniser, similarity_transform
from hallo2.onnx_model import CPU

MODULE = str(Path(__file__).parents[2] / "hallo2" / "onnx_model.py")


def picture(width, height):
    return np.zeros((height, width, 3), np.uint8)


def edges(face):
    return [face.box.left, face.box.top, face.box.right, face.box.bottom]


def channels_network(path, *, size=64):
    """A detector of one face whose first three points say the mean of the three channels of its input."""
    sides = [size // stride for stride in (8, 16, 32)]
    arrays = [np.zeros((2 * side**2, width), np.float32) for width in (1, 4, 10) for side in sides]
    arrays[0][0] = 1
    values = [numpy_helper.from_array(array, f"value{i}") for i, array in enumerate(arrays)]
    values.append(numpy_helper.from_array(np.eye(1, arrays[6].shape[0], dtype=np.float32).T, "first"))
    values.append(numpy_helper.from_array(np.eye(3, 10, dtype=np.float32), "wide"))
    nodes = [helper.make_node("Identity", [f"value{i}"], [f"output{i}"]) for i in range(9) if i != 6]
    nodes += [
        helper.make_node("ReduceMean", ["in"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "wide"], ["row"]),
        helper.make_node("MatMul", ["first", "row"], ["output6"]),
    ]
    inputs = [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 3, size, size])]
    outputs = [helper.make_tensor_value_info(f"output{i}", TensorProto.FLOAT, a.shape) for i, a in enumerate(arrays)]
    return save_network(path, helper.make_graph(nodes, "channels", inputs, outputs, values))


def test_finds_a_face_where_it_is(tmp_path):
    detector = FaceDetector(make_scrfd(tmp_path / "scrfd.onnx", [ASTRONAUT.scaled(1.25)]))
    (face,) = detector(np.asarray(astronaut()))
    assert edges(face) == pytest.approx(ASTRONAUT.box, abs=1e-3)
    assert face.points == pytest.approx(np.array(ASTRONAUT.points), abs=1e-3)
    assert face.score == pytest.approx(0.9)


@pytest.mark.parametrize(("width", "height"), [(1280, 640), (640, 1280), (1000, 333), (77, 1001), (320, 200)])
def test_pictures_of_every_shape_are_fitted_into_the_input(tmp_path, width, height):
    known = Face((10, 20, 50, 70), ((20, 30), (40, 30), (30, 45), (22, 60), (38, 60)))
    (face,) = FaceDetector(make_scrfd(tmp_path / "scrfd.onnx", [known]))(picture(width, height))
    fitted = 640 if height > width else 640 * height // width
    assert edges(face) == pytest.approx([edge * height / fitted for edge in known.box], rel=1e-5)
    assert face.points == pytest.approx(np.array(known.points) * height / fitted, rel=1e-5)


@pytest.mark.parametrize("size", [320, 640])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_stride_and_input_size(tmp_path, size, level):
    known = Face((100, 120, 181, 233), ((120, 150), (160, 151), (140, 180), (125, 210), (158, 211)))
    elsewhere = known.moved(-90, -110)
    # The first face goes to the finest stride, and so on.
    faces = [elsewhere] * level + [known]
    found = FaceDetector(make_scrfd(tmp_path / "scrfd.onnx", faces, size=size))(picture(size, size))
    assert any(edges(face) == pytest.approx(known.box, abs=1e-3) for face in found)


def test_model_that_leaves_its_input_open_gets_640(tmp_path):
    detector = FaceDetector(make_scrfd(tmp_path / "scrfd.onnx", [ASTRONAUT], dynamic=True))
    (face,) = detector(picture(640, 640))
    assert edges(face) == pytest.approx(ASTRONAUT.box, abs=1e-3)


def test_no_face(tmp_path):
    assert FaceDetector(make_scrfd(tmp_path / "scrfd.onnx"))(picture(300, 200)) == []


def test_faces_come_surest_first_and_unsure_ones_not_at_all(tmp_path):
    boxes = [
        Face(ASTRONAUT.box, ASTRONAUT.points, score).moved(x, 0) for score, x in ((0.6, 0), (0.8, 150), (0.49, 300))
    ]
    found = FaceDetector(make_scrfd(tmp_path / "scrfd.onnx", boxes))(picture(640, 640))
    assert [round(face.score, 3) for face in found] == [0.8, 0.6]


def test_boxes_that_overlap_are_one_face(tmp_path):
    # Shifted by x, two boxes 90 wide overlap by (91 - x) / (91 + x).
    near, far = (Face(ASTRONAUT.box, ASTRONAUT.points, 0.7).moved(x, 0) for x in (38, 40))
    network = tmp_path / "scrfd.onnx"
    assert len(FaceDetector(make_scrfd(network, [ASTRONAUT, near]))(picture(640, 640))) == 1
    assert len(FaceDetector(make_scrfd(network, [ASTRONAUT, far]))(picture(640, 640))) == 2


def test_input_is_rgb_from_minus_one_to_one_on_black(tmp_path):
    image = np.full((32, 64, 3), (255, 127, 0), np.uint8)
    (face,) = FaceDetector(channels_network(tmp_path / "echo.onnx"))(image)
    # Half of the square is black; the offsets count in strides of 8.
    means = face.points.reshape(-1)[:3] / 8
    bright = (np.array([255, 127, 0]) - 127.5) / 128
    assert means == pytest.approx((bright - 127.5 / 128) / 2, abs=1e-5)


def test_similarity_transform_is_recovered():
    points = np.array(ASTRONAUT.points)
    angle, scale, shift = 0.4, 2.5, np.array([-30.0, 12.0])
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = similarity_transform(points, points @ rotation.T + shift)
    assert found == pytest.approx(np.column_stack([rotation, shift]))


def test_similarity_transform_mirrors_nothing():
    points = np.array(ASTRONAUT.points)
    found = similarity_transform(points, points * (-1, 1))
    assert np.linalg.det(found[:, :2]) > 0


def test_embedding_is_of_the_aligned_face(tmp_path):
    # With the points where ArcFace wants them, times two, the aligned face is the picture at half the size.
    wanted = np.array(
        [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
    )
    image = np.zeros((224, 224, 3), np.uint8)
    image[:112, :, 0] = 200
    image[:, 112:, 2] = 100
    embedding = FaceRecogniser(make_arcface(tmp_path / "arcface.onnx"))(image, wanted * 2)
    assert (embedding.shape, embedding.dtype) == ((512,), np.float32)
    aligned = (image[::2, ::2].astype(np.float32) - 127.5) / 127.5
    pooled = aligned.reshape(8, 14, 8, 14, 3).mean((1, 3)).transpose(2, 0, 1).reshape(1, -1)
    assert embedding == pytest.approx((pooled @ arcface_projection())[0], abs=1e-3)


def test_embedding_does_not_mind_where_the_face_is(tmp_path):
    recogniser = FaceRecogniser(make_arcface(tmp_path / "arcface.onnx"))
    image, points = np.asarray(astronaut()), np.array(ASTRONAUT.points)
    whole, part = recogniser(image, points), recogniser(image[40:220, 120:330], points - (120, 40))
    assert np.linalg.norm(whole - part) < 1e-3 * np.linalg.norm(whole)


@pytest.mark.parametrize("kind", [FaceDetector, FaceRecogniser])
def test_files_that_are_no_networks(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match=r"none\.onnx is missing: download"):
        kind(tmp_path / "none.onnx")
    for content in (b"", b"no network at all"):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.onnx is no ONNX network, or is damaged"):
            kind(tmp_path / "bad.onnx")


def test_other_networks_are_refused(tmp_path):
    arcface = make_arcface(tmp_path / "arcface.onnx")
    with pytest.raises(ValueError, match=r"arcface\.onnx has 1 outputs, and a face detector"):
        FaceDetector(arcface)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 112, 96]) for name in ("in", "out")]
    oblong = helper.make_graph([helper.make_node("Identity", ["in"], ["out"])], "oblong", ends[:1], ends[1:])
    with pytest.raises(
        ValueError, match=r"oblong\.onnx takes pictures of 96 x 112, and faces are given to it as squares"
    ):
        FaceRecogniser(save_network(tmp_path / "oblong.onnx", oblong))


def test_folder_without_its_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"scrfd_10g_bnkps\.onnx is missing"):
        FaceAnalysis.from_pretrained(tmp_path)


def test_onnxruntime_reports_to_nobody(tmp_path):
    network = make_arcface(tmp_path / "arcface.onnx")
    script = f"import pathlib, runpy; runpy.run_path({MODULE!r})['open_model'](pathlib.Path({str(network)!r}), {CPU!r})"
    subprocess.run([sys.executable, "-c", script], env={"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*onnxruntime*")) == []


def test_nothing_is_written_to_the_terminal(tmp_path, capfd):
    FaceDetector(make_scrfd(tmp_path / "scrfd.onnx", [ASTRONAUT]))(picture(64, 64))
    FaceRecogniser(make_arcface(tmp_path / "arcface.onnx"))(picture(64, 64), np.array(ASTRONAUT.points))
    assert capfd.readouterr() == ("", "")


def test_boxes_overlap_as_areas():
    assert Box(0, 0, 10, 10).overlap(Box(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert Box(0, 0, 10, 10).overlap(Box(20, 0, 30, 10)) == 0
