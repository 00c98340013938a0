"""Phantoms as DICOM are the phantoms of the other formats."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_medseg.dataset.contents import read_contents
from nnunet_medseg.dataset.intake import find_dataset, read_dataset
from nnunet_medseg.phantom import LABELS, PhantomSpec, make_case
from nnunet_medseg.phantom.dicom import write_dicom_patients
from nnunet_medseg.volume import grid_shift

SPEC = PhantomSpec(shape=(12, 24, 20))


@pytest.mark.parametrize("drawn_as", ["rtstruct", "dicom_seg"])
@pytest.mark.parametrize("modality", ["CT", "MRI"])
def test_images_and_structures_are_those_of_the_phantom(tmp_path, drawn_as, modality):
    spec = PhantomSpec(shape=(12, 24, 20), modality=modality)
    write_dicom_patients(tmp_path / "in", spec, cases=3, drawn_as=drawn_as)

    dataset = read_dataset(find_dataset(tmp_path / "in"), None)

    assert dataset.findings == ()
    assert dataset.channels == (modality,)
    assert {name: value for value, name in dataset.label_names.items()} == {
        "kidney": 1,
        "lesion": 2,
        "liver": 3,
    }
    value_of = {LABELS[name]: value for value, name in dataset.label_names.items()}
    for index, case in enumerate(dataset.cases):
        contents, findings = read_contents(case)
        (image, *_), label = make_case(spec, index)
        assert findings == ()
        found = contents.channels[0].volume
        # The files may hold the slices from the other end.
        flipped = float(found.affine[:3, 2] @ image.affine[:3, 2]) < 0
        array, marked = found.array, contents.label.array
        if flipped:
            array, marked = array[::-1], marked[::-1]
        else:
            assert grid_shift(found, image) < 1e-3
        assert np.array_equal(array, np.rint(image.array))
        for theirs, ours in value_of.items():
            assert np.array_equal(marked == ours, label.array == theirs)
