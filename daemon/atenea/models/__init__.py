"""The models of Hallo2: which files they are, under which licences, how they are fetched and checked.

For other parts of atenea and for plugins: `missing_files` costs nothing, `verify` reads every byte; both work offline.
"""

from atenea.models.checking import CheckedFile, Verification, missing_files, verify
from atenea.models.manifest import COMMIT, PARTS, REPOSITORY, Part

__all__ = ["COMMIT", "PARTS", "REPOSITORY", "CheckedFile", "Part", "Verification", "missing_files", "verify"]
