"""Finds the landmarks of a face with the networks of MediaPipe's face landmarker, run by OpenCV.

Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", 2019, arXiv 1907.05047, and
Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs", 2019, arXiv 1907.06724. The
model file is MediaPipe's. Its own library is not used: it reports to its makers each time a landmarker is made, needs
libraries of a screen, and prints. On a real face the landmarks differ from its by less than half a pixel (tested).
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from math import atan2, cos, degrees, hypot, sin
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hallo2.face.mesh import CHIN, FOREHEAD, LEFT_EDGE, RIGHT_EDGE, SILHOUETTE, Box, Points

Picture = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]

SCORE_THRESHOLD = 0.5
"""How sure the detector must be, from 0 to 1; MediaPipe's own."""

OVERLAP_THRESHOLD = 0.3
"""Boxes that overlap more (intersection over union) are one face, and are averaged; MediaPipe's own."""

_DETECTOR, _NETWORK = "face_detector.tflite", "face_landmarks_detector.tflite"
_DETECTOR_SIZE, _MESH_SIZE = 128, 256
_CELLS = (16, 2), (8, 6)
"""Cells in a row, and anchors in each."""
_MARGIN = 1.5
"""Side of the square that the mesh is looked for in, in sides of the detector's box."""
_SURROUNDINGS = 2.0
"""Side of the part of the picture in which a face is looked for alone, in sides of the face: as much air as a selfie
has, which is what MediaPipe's detector was made for."""


@dataclass(frozen=True)
class HeadPose:
    """Where the face looks, in degrees; all 0 when it looks straight at the camera, upright.

    Attributes:
        yaw: above 0, to the right of the picture.
        pitch: above 0, up.
        roll: above 0, the head is tilted against the clock, as one sees it.
    """

    yaw: float
    pitch: float
    roll: float

    @classmethod
    def of_mesh(cls, points: Points) -> HeadPose:
        """From the face mesh (478, 3): x to the right, y down and z away from the viewer, all in pixels.

        Yaw and roll are good to a few degrees. Pitch is coarser: of a face that looks at the camera it is about -10.
        """
        across = points[RIGHT_EDGE] - points[LEFT_EDGE]
        up = points[FOREHEAD] - points[CHIN]
        x, y, z = np.cross(across, up).tolist()
        return cls(
            yaw=degrees(atan2(x, -z)),
            pitch=degrees(atan2(-y, hypot(x, z))),
            roll=degrees(atan2(-across[1], across[0])),
        )


@dataclass(frozen=True, eq=False)
class Landmarks:
    """A face as the mesh has it.

    Attributes:
        points: (478, 2), x and y in pixels of the picture; some may lie outside it.
        pose: where the face looks.
    """

    points: Points
    pose: HeadPose

    @property
    def silhouette(self) -> Box:
        """The box around the face, from the top of the forehead to the chin."""
        return Box.around(self.points[list(SILHOUETTE)])


@dataclass(frozen=True)
class _Frame:
    """A square of the picture, turned: its middle, its side in pixels, and the angle in radians, with the clock."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    @property
    def rotation(self) -> Points:
        c, s = cos(self.angle), sin(self.angle)
        return np.array([(c, -s), (s, c)])

    def cut(self, picture: Picture, size: int, border: int) -> Array:
        """(size, size, 3), the square in 0..255."""
        scale = self.side / size
        corner = (self.x, self.y) - self.rotation @ np.full(2, (size - 1) / 2 * scale) - 0.5
        transform = np.column_stack([self.rotation * scale, corner])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        square = cv2.warpAffine(picture, transform, (size, size), flags=flags, borderMode=border)
        return np.asarray(square, np.float32)

    def placed(self, points: Points) -> Points:
        """Points (n, 2) from -0.5 to 0.5 of the square, in pixels of the picture."""
        return points * self.side @ self.rotation.T + (self.x, self.y)


class FaceLandmarker:
    """MediaPipe's face landmarker for single pictures.

    Args:
        path: the model, a `.task` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or no face landmarker.
    """

    def __init__(self, path: Path) -> None:
        detector, mesh = _networks(path)
        self._detector = cv2.dnn.readNetFromTFLite(np.frombuffer(detector, np.uint8))
        self._mesh = cv2.dnn.readNetFromTFLite(np.frombuffer(mesh, np.uint8))
        self._anchors = _anchors()

    def __call__(self, picture: Picture, box: Box) -> Landmarks | None:
        """The landmarks of the face in `box`, or None if it sees none there.

        It looks at the whole picture first, as MediaPipe does. A face that is small in its picture it does not see
        there, so then it looks at the face and what is around it.

        Args:
            picture: (H, W, 3), RGB.
            box: around the face, in pixels of the picture.
        """
        return _best(self._detect(picture, 0, 0), box) or _best(self._detect(*_around(picture, box)), box)

    def _detect(self, picture: Picture, left: int, top: int) -> list[Landmarks]:
        """The faces in a picture whose top left corner lies at `left`, `top`, which are added to the landmarks."""
        meshes = [self._landmarks(picture, frame) for frame in self._faces(picture)]
        return [Landmarks(mesh[:, :2] + (left, top), HeadPose.of_mesh(mesh)) for mesh in meshes]

    def _faces(self, picture: Picture) -> list[_Frame]:
        """Where the mesh is to be looked for: squares that stand as upright as the faces."""
        height, width = picture.shape[:2]
        whole = _Frame(width / 2, height / 2, max(height, width))
        values = whole.cut(picture, _DETECTOR_SIZE, cv2.BORDER_CONSTANT) / 127.5 - 1
        self._detector.setInput(_blob(values))
        logits = self._detector.forward("classificators").reshape(-1).astype(np.float64)
        places = self._detector.forward("regressors").reshape(-1, 8, 2).astype(np.float64) / _DETECTOR_SIZE
        scores = 1 / (1 + np.exp(-logits.clip(-80, 80)))
        # First the middle and the size of the box, then six points, of which the eyes are the first two.
        places[:, 0] += self._anchors
        places[:, 2:] += self._anchors[:, None]
        boxes = np.concatenate([places[:, 0] - places[:, 1] / 2, places[:, 0] + places[:, 1] / 2], axis=1)
        sure = scores >= SCORE_THRESHOLD
        found = _averaged(scores[sure], np.concatenate([boxes, places[:, 2:4].reshape(-1, 4)], axis=1)[sure])
        return [_face_frame(whole.placed(face.reshape(4, 2) - 0.5)) for face in found]

    def _landmarks(self, picture: Picture, frame: _Frame) -> Points:
        """(478, 3) in pixels; z is in the scale of x."""
        self._mesh.setInput(_blob(frame.cut(picture, _MESH_SIZE, cv2.BORDER_REPLICATE) / 255))
        mesh = self._mesh.forward("Identity").reshape(-1, 3).astype(np.float64) / _MESH_SIZE
        return np.column_stack([frame.placed(mesh[:, :2] - 0.5), mesh[:, 2] * frame.side])


def _networks(path: Path) -> tuple[bytes, bytes]:
    """What finds faces and what places the landmarks, out of the archive that a model is."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: download the model bundle again")
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(_DETECTOR), archive.read(_NETWORK)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{path} is damaged or no face landmarker: download the model bundle again") from error


def _anchors() -> Points:
    """(896, 2): x and y of the detector's anchors, from 0 to 1, in the middle of their cells."""
    levels = []
    for cells, count in _CELLS:
        y, x = (np.mgrid[:cells, :cells] + 0.5) / cells
        levels.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), count, axis=0))
    return np.concatenate(levels)


def _blob(values: npt.NDArray[np.floating]) -> Array:
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)


def _averaged(scores: Points, rows: Points) -> list[Points]:
    """BlazeFace's non-maximum suppression: rows (n, 8), the box first, that overlap are averaged by their scores."""
    order = np.argsort(-scores, kind="stable")
    found: list[Points] = []
    while order.size:
        best = Box(*rows[order[0], :4].tolist())
        alike = np.array([best.overlap(Box(*rows[i, :4].tolist())) > OVERLAP_THRESHOLD for i in order])
        alike[0] = True
        found.append(np.average(rows[order[alike]], axis=0, weights=scores[order[alike]]))
        order = order[~alike]
    return found


def _face_frame(corners: Points) -> _Frame:
    """From the box's two corners and the two eyes (4, 2), in pixels."""
    (x, y), (width, height) = (corners[0] + corners[1]) / 2, corners[1] - corners[0]
    across = corners[3] - corners[2]
    return _Frame(x, y, max(width, height) * _MARGIN, atan2(across[1], across[0]))


def _best(faces: list[Landmarks], box: Box) -> Landmarks | None:
    """The one that fills `box` best, of those whose middle lies in it."""
    inside = [face for face in faces if box.holds(*face.silhouette.centre)]
    return max(inside, key=lambda face: face.silhouette.overlap(box), default=None)


def _around(picture: Picture, box: Box) -> tuple[Picture, int, int]:
    """The part of the picture around `box`, and where its top left corner lies."""
    (x, y), reach = box.centre, box.side * _SURROUNDINGS / 2
    left, top = max(round(x - reach), 0), max(round(y - reach), 0)
    return picture[top : round(y + reach), left : round(x + reach)], left, top
