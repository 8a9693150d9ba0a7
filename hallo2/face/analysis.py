"""The three networks that look at a face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hallo2.face.detection import FaceDetector
from hallo2.face.landmarks import FaceLandmarker
from hallo2.face.recognition import FaceRecogniser
from hallo2.onnx_model import CPU

DETECTOR = "models/scrfd_10g_bnkps.onnx"
RECOGNISER = "models/glintr100.onnx"
LANDMARKER = "models/face_landmarker_v2_with_blendshapes.task"


@dataclass(frozen=True, eq=False)
class FaceAnalysis:
    """What finds faces, what places their landmarks and what tells them apart.

    Attributes:
        detector: where the faces of a picture are.
        landmarker: the 478 landmarks of one of them.
        recogniser: the embedding of one of them.
    """

    detector: FaceDetector
    landmarker: FaceLandmarker
    recogniser: FaceRecogniser

    @classmethod
    def from_pretrained(cls, folder: Path, providers: Sequence[str] = CPU) -> FaceAnalysis:
        """The networks in the bundle's folder `face_analysis`.

        Args:
            folder: holds `models/` with the three files.
            providers: onnxruntime's execution providers, the preferred one first; the CPU is quick enough for one
                picture a video.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is no such network.
        """
        return cls(
            detector=FaceDetector(folder / DETECTOR, providers),
            landmarker=FaceLandmarker(folder / LANDMARKER),
            recogniser=FaceRecogniser(folder / RECOGNISER, providers),
        )
