"""Whether a face can be animated: what is refused, and what is worth a warning."""

from __future__ import annotations

from collections.abc import Sequence

from hallo2.face.detection import DetectedFace
from hallo2.face.errors import FaceError
from hallo2.face.framing import Square
from hallo2.face.landmarks import HeadPose
from hallo2.face.mesh import Box

LIKE_SIZE = 0.5
"""A second face with at least this share of the largest one's area may as well be the one that is meant: its side is
then 0.7 of the other's, as of two people who stand side by side."""

MIN_FACE = 64
"""Pixels of the face's longer side. Below it the 112 x 112 that the recogniser sees is made up by half, and a video of
512 x 512 is enlarged almost five times."""

MAX_ENLARGEMENT = 1.5
"""How much the square may be enlarged before one sees that the video is soft."""

BEST_TURN = 30.0
"""Degrees: the authors' README asks for less."""

MAX_TURN = 45.0
"""Degrees: beyond it one side of the face hides the other's eye or corner of the mouth, and landmarks are guesses."""

MAX_CUT_OFF = 0.05
"""Share of the face's side that may lie beyond the edge: a sliver of cheek or forehead, but no chin."""

BEST_SHARES = 0.5, 0.7
"""The face's share of the square's side, from the authors' README."""

_SHARE_MARGIN = 0.005
"""A square has whole pixels, so its share is never exact."""


def only_face(faces: Sequence[DetectedFace], name: str) -> DetectedFace:
    """The largest, if it is by far the largest.

    Raises:
        FaceError: there is none, or a second one of like size.
    """
    if not faces:
        raise FaceError(
            f"{name} shows no face: use a picture of one person who looks at the camera, or say with face_box where "
            "the face is"
        )
    first, *others = sorted(faces, key=lambda face: face.box.area, reverse=True)
    if others and others[0].box.area >= LIKE_SIZE * first.box.area:
        raise FaceError(
            f"{name} shows two faces of like size, {first.box} and {others[0].box}: say with face_box which one "
            "speaks, or cut it out with crop"
        )
    return first


def check_size(face: Box, name: str) -> None:
    """Raises FaceError if the face is too small."""
    if face.side < MIN_FACE:
        raise FaceError(
            f"the face in {name} is {face.side:.0f} pixels large and {MIN_FACE} are needed: use a larger picture of it"
        )


def pose_warnings(pose: HeadPose, name: str) -> list[str]:
    """What to say of a face that does not look at the camera.

    Raises:
        FaceError: it is turned too far.
    """
    warnings: list[str] = []
    for how, angle in (("turned to the side", pose.yaw), ("turned up or down", pose.pitch), ("tilted", pose.roll)):
        if abs(angle) > MAX_TURN:
            raise FaceError(
                f"the face in {name} is {how} by {abs(angle):.0f} degrees and {MAX_TURN:.0f} are the most that can be "
                "animated: use a picture that looks at the camera"
            )
        if abs(angle) > BEST_TURN:
            warnings.append(
                f"the face in {name} is {how} by {abs(angle):.0f} degrees: one below {BEST_TURN:.0f} moves better"
            )
    return warnings


def edge_warnings(face: Box, frame: Box, name: str, *, cropped: bool) -> list[str]:
    """What to say of a face that goes beyond the edges of `frame`: those of the picture, or of the crop.

    Raises:
        FaceError: more of it is cut off than `MAX_CUT_OFF`.
    """
    beyond = {
        "left": frame.left - face.left,
        "top": frame.top - face.top,
        "right": face.right - frame.right,
        "bottom": face.bottom - frame.bottom,
    }
    edges = " and ".join(edge for edge, pixels in beyond.items() if pixels > 0)
    where = f"at the {edges} of {'the crop of ' if cropped else ''}{name}"
    if max(beyond.values()) > MAX_CUT_OFF * face.side:
        cure = "move the crop" if cropped else "use a picture that shows all of it"
        raise FaceError(f"the face is cut off {where}: {cure}")
    return [f"the face touches the edge {where}: some room around it looks better"] if edges else []


def square_warnings(face: Box, square: Square, size: int, name: str) -> list[str]:
    """What to say of how large the face is in the square, and the square in the video of `size` x `size`."""
    warnings: list[str] = []
    share = face.side / square.side
    low, high = BEST_SHARES
    if not low - _SHARE_MARGIN <= share <= high + _SHARE_MARGIN:
        warnings.append(
            f"the face takes {share:.0%} of the side of what is animated of {name}: {low:.0%} to {high:.0%} is best"
        )
    if size / square.side > MAX_ENLARGEMENT:
        warnings.append(
            f"what is animated of {name} is {square.side} pixels wide and is enlarged to {size}: a larger picture "
            "gives a sharper video"
        )
    return warnings
