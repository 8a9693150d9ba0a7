"""Stand-ins for the networks that find faces and tell them apart, with the signatures of the real ones."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import skimage.data
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

LANDMARKER = Path(__file__).parent / "data" / "models" / "face_landmarker.task"

_LEVELS = (8, 16, 32)
_ANCHORS = 2


@dataclass(frozen=True)
class Face:
    """What the stand-in finds: left, top, right and bottom of a face, five points (x, y), and how sure it is."""

    box: tuple[float, float, float, float]
    points: tuple[tuple[float, float], ...]
    score: float = 0.9

    def scaled(self, factor: float) -> Face:
        """The same face in a picture of `factor` times the size."""
        left, top, right, bottom = (edge * factor for edge in self.box)
        return Face((left, top, right, bottom), tuple((x * factor, y * factor) for x, y in self.points), self.score)

    def moved(self, x: float, y: float) -> Face:
        """The same face elsewhere."""
        left, top, right, bottom = self.box
        points = tuple((px + x, py + y) for px, py in self.points)
        return Face((left + x, top + y, right + x, bottom + y), points, self.score)


ASTRONAUT = Face(
    box=(179, 66, 269, 181),
    points=((203.3, 100.9), (245.8, 103.0), (223.5, 131.0), (204.5, 140.0), (244.0, 141.5)),
)
"""The face in scikit-image's astronaut (512 x 512), measured by eye."""


def astronaut() -> Image.Image:
    """Eileen Collins, who looks at the camera: 512 x 512, RGB, in the public domain."""
    return Image.open(Path(skimage.data.__file__).with_name("astronaut.png")).convert("RGB")


def make_scrfd(path: Path, faces: Sequence[Face] = (), *, size: int = 640, dynamic: bool = False) -> Path:
    """A network that finds `faces`, in pixels of its input, in every picture.

    Args:
        path: the file to write.
        faces: what it finds.
        size: of its input.
        dynamic: whether the model leaves the size of its input open, as the published one does; the anchors are those
            of `size`.
    """
    arrays: list[npt.NDArray[np.float32]] = []
    for width in (1, 4, 10):
        arrays += [np.zeros((_ANCHORS * (size // stride) ** 2, width), np.float32) for stride in _LEVELS]
    for index, face in enumerate(faces):
        _place(face, arrays, size, level=index % len(_LEVELS))
    sides: list[int | str] = ["?", "?"] if dynamic else [size, size]
    return _save(path, [1, 3, *sides], arrays)


def _place(face: Face, arrays: list[npt.NDArray[np.float32]], size: int, level: int) -> None:
    stride = _LEVELS[level]
    box, points = np.array(face.box), np.array(face.points)
    column, row = ((box[:2] + box[2:]) / 2 // stride).astype(int)
    anchor = _ANCHORS * (row * (size // stride) + column)
    centre = np.array([column, row]) * stride
    scores, distances, offsets = arrays[level :: len(_LEVELS)]
    scores[anchor] = face.score
    distances[anchor] = np.concatenate([centre - box[:2], box[2:] - centre]) / stride
    offsets[anchor] = ((points - centre) / stride).reshape(-1)


def _save(path: Path, shape: list[int | str], arrays: Sequence[npt.NDArray[np.float32]]) -> Path:
    """A network that gives `arrays`, whatever it sees."""
    nodes = [helper.make_node("Identity", [f"value{i}"], [f"output{i}"]) for i in range(len(arrays))]
    outputs = [
        helper.make_tensor_value_info(f"output{i}", TensorProto.FLOAT, array.shape) for i, array in enumerate(arrays)
    ]
    values = [numpy_helper.from_array(array, f"value{i}") for i, array in enumerate(arrays)]
    inputs = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, shape)]
    return save_network(path, helper.make_graph(nodes, "constant", inputs, outputs, values))


def save_network(path: Path, graph: onnx.GraphProto) -> Path:
    """Write `graph` so that onnxruntime reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def arcface_projection() -> npt.NDArray[np.float32]:
    """(192, 512): what the stand-in multiplies the face with, averaged to 8 x 8."""
    return np.random.default_rng(0).standard_normal((192, 512)).astype(np.float32)


def make_arcface(path: Path) -> Path:
    """A network that averages a face of 112 x 112 to 8 x 8 and multiplies it with a fixed matrix."""
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["pooled"], kernel_shape=[14, 14], strides=[14, 14]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "projection"], ["embedding"]),
    ]
    inputs = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["batch", 3, 112, 112])]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 512])]
    values = [numpy_helper.from_array(arcface_projection(), "projection")]
    return save_network(path, helper.make_graph(nodes, "arcface", inputs, outputs, values))


def make_face_analysis(
    folder: Path, faces: Sequence[Face] = (ASTRONAUT,), *, picture_size: tuple[int, int] = (512, 512)
) -> Path:
    """The bundle's folder `face_analysis`: stand-ins, and MediaPipe's real landmarker.

    Args:
        folder: where to; it becomes the folder to give to `FaceAnalysis.from_pretrained`.
        faces: what the detector finds, in pixels of a picture of `picture_size`.
        picture_size: width and height of the pictures that are to be looked at.
    """
    scale = 640 / max(picture_size)
    make_scrfd(folder / "models" / "scrfd_10g_bnkps.onnx", [face.scaled(scale) for face in faces])
    make_arcface(folder / "models" / "glintr100.onnx")
    shutil.copyfile(LANDMARKER, folder / "models" / "face_landmarker_v2_with_blendshapes.task")
    return folder
