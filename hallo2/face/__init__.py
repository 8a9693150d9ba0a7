"""Faces: from a picture of a person to the `Portrait` that the engine animates."""

from hallo2.face.analysis import FaceAnalysis
from hallo2.face.errors import FaceError
from hallo2.face.masks import RegionMasks, region_masks
from hallo2.face.preparation import PreparedPortrait, prepare_portrait

__all__ = ["FaceAnalysis", "FaceError", "PreparedPortrait", "RegionMasks", "prepare_portrait", "region_masks"]
