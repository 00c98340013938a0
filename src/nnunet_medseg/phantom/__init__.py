"""Made-up patients for the demo, the tests and the benchmarks: as files of any format, as DICOM."""

from nnunet_medseg.phantom.abdomen import (
    LABELS,
    PhantomSpec,
    make_case,
    write_images,
    write_nnunet_raw,
    write_patient_folders,
)
from nnunet_medseg.phantom.dicom import write_dicom_patients, write_series

__all__ = [
    "LABELS",
    "PhantomSpec",
    "make_case",
    "write_dicom_patients",
    "write_images",
    "write_nnunet_raw",
    "write_patient_folders",
    "write_series",
]
