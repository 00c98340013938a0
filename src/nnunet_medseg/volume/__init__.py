"""Images and label maps: the axis rule, and reading and writing of file formats.

The axis rule: arrays are `(z, y, x)`, with channels `(c, z, y, x)`; spacing is `(z, y, x)` in mm.
The affine maps a voxel index `(x, y, z, 1)` to mm in LPS (x to the left, y to the back, z to the
head of the patient), the convention of DICOM and of ITK; NIfTI files, which use RAS, are
converted on the way in and out by SimpleITK.

Promises of reading: only the file itself is read, and for `.mhd` the one data file that lies beside
it and is no link; a header is asked what it announces before memory is taken.
Does not promise: to refuse an image that fits into the memory, however small it is when packed.
"""

from nnunet_medseg.volume.formats import EXTENSIONS, extension_of, files_of
from nnunet_medseg.volume.grid import (
    GRID_TOLERANCE,
    Volume,
    grid_shift,
    orientation_code,
    restore_orientation,
    to_ras,
)
from nnunet_medseg.volume.problems import VolumeError, check_name
from nnunet_medseg.volume.reading import (
    read_frames,
    read_volume,
    segment_names,
    silence_readers,
)
from nnunet_medseg.volume.writing import write_volume

__all__ = [
    "EXTENSIONS",
    "GRID_TOLERANCE",
    "Volume",
    "VolumeError",
    "check_name",
    "extension_of",
    "files_of",
    "grid_shift",
    "orientation_code",
    "read_frames",
    "read_volume",
    "restore_orientation",
    "segment_names",
    "silence_readers",
    "to_ras",
    "write_volume",
]
