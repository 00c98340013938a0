"""Prediction of DICOM series: the same segmentation as NIfTI, as SEG and as RTSTRUCT."""

from __future__ import annotations

import os

import numpy as np
import pydicom
import pytest
from dicom_makers import OBLIQUE, make_image, make_series, write_all
from foreign_models import write_stock_folder

from nnunet_medseg.dataset.labels import Label
from nnunet_medseg.dataset.unlabelled import Unlabelled
from nnunet_medseg.errors import DatasetError, UsageError, VerificationError
from nnunet_medseg.volume import read_volume, write_volume
from nnunet_medseg.volume.dicom.series import read_series
from nnunet_medseg.volume.dicom.structures import read_structures, structures_of
from nnunet_medseg.workflows.likeness import Unlike
from nnunet_medseg.workflows.predict import predict
from nnunet_medseg.workflows.predicting import outputs
from nnunet_medseg.workflows.predicting.outputs import write_result
from nnunet_medseg.workflows.predicting.table import Row, write_table


@pytest.fixture
def places(tmp_path):
    write_stock_folder(tmp_path / "model")
    for number in (1, 2):
        known = {"PatientID": f"id{number}", "SeriesInstanceUID": f"1.2.{number}.7"}
        made = make_series(make_image(number), OBLIQUE, **known)
        write_all(tmp_path / "images" / f"p{number}", made)
    return tmp_path / "images", tmp_path / "out", tmp_path / "model", tmp_path / "work"


def test_a_series_comes_back_in_each_format_on_its_own_voxels(places, tmp_path):
    images, _, model, work = places
    by_format = {
        kind: predict(
            images, tmp_path / kind, model, work, device="cpu", precision="float32",
            output_format=kind,
        )
        for kind in ("nifti", "dicom_seg", "rtstruct")
    }  # fmt: skip

    assert [path.name for path in by_format["nifti"]] == ["p1.nii.gz", "p2.nii.gz"]
    assert [path.name for path in by_format["rtstruct"]] == ["p1_rtstruct.dcm", "p2_rtstruct.dcm"]
    for number, nifti in enumerate(by_format["nifti"], start=1):
        grid = read_series(sorted((images / f"p{number}").iterdir()))
        expected = read_volume(nifti).array
        assert expected.any()
        for kind in ("dicom_seg", "rtstruct"):
            path = by_format[kind][number - 1]
            found = np.zeros(expected.shape, expected.dtype)
            for structure, mask in read_structures(path, grid).items():
                found[mask] = structure
            # Numbers of structures are the model's values here: 1, 2 …
            assert np.array_equal(found, expected)
            assert {item.series_uid for item in structures_of(path)} == {f"1.2.{number}.7"}
            assert pydicom.dcmread(path).PatientID == f"id{number}"


@pytest.mark.parametrize("kind", ["dicom_seg", "rtstruct"])
@pytest.mark.parametrize("degrees", [0.0, 12.0])
def test_a_file_that_does_not_hold_the_segmentation_is_not_handed_over(
    tmp_path, monkeypatch, kind, degrees
):
    affine = np.diag([1.5, 1.5, 3.0, 1.0])
    affine[1, 2] = 3.0 * np.tan(np.radians(degrees))
    files = tuple(write_all(tmp_path / "series", make_series(make_image(1), affine)))
    grid = read_series(files)
    found = np.zeros(grid.array.shape, np.uint8)
    found[2:6, 5:12, 3:9] = 4
    case = Unlabelled("out.dcm", files[:1], series=(files,))
    labels = (Label("Liver", 4, 1),)

    write_result(tmp_path / "out.dcm", grid.with_array(found), case, labels, kind)

    write = outputs.WRITERS[kind]

    def write_shifted(path, volume, *others):
        write(path, volume.with_array(np.roll(volume.array, 1, axis=2)), *others)

    monkeypatch.setitem(outputs.WRITERS, kind, write_shifted)
    with pytest.raises(VerificationError):
        write_result(tmp_path / "out.dcm", grid.with_array(found), case, labels, kind)


def test_all_files_of_a_series_are_deleted_when_it_is_segmented(places):
    images, out, model, work = places
    (images / "p1" / "notes.txt").write_text("not an image")

    predict(images, out, model, work, device="cpu", delete_input=True)

    left = [path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()]
    assert left == ["p1/notes.txt"]


def test_other_images_cannot_be_given_back_as_dicom(places):
    images, out, model, work = places
    write_volume(images / "other.nii.gz", read_series(sorted((images / "p1").iterdir())))

    with pytest.raises(UsageError, match=r"other\.nii\.gz"):
        predict(images, out, model, work, device="cpu", output_format="rtstruct")

    assert not out.exists() or not any(out.iterdir())


def test_a_model_of_another_kind_of_image_segments_nothing_and_says_so(places):
    images, out, model, work = places
    for path in images.rglob("IM*"):
        one = pydicom.dcmread(path)
        one.Modality = "MR"
        one.save_as(path)

    with pytest.raises(DatasetError, match="passed over"):
        predict(images, out, model, work, device="cpu", delete_input=True)

    assert len(list(images.rglob("IM*"))) == 16


def test_two_images_of_one_name_are_never_one_segmentation(places):
    images, out, model, work = places
    write_volume(images / "p1.nii.gz", read_series(sorted((images / "p1").iterdir())))

    with pytest.raises(UsageError, match=r"p1\.nii\.gz"):
        predict(images, out, model, work, device="cpu", delete_input=True)

    assert not any(out.iterdir())
    assert len(list(images.rglob("IM*"))) == 16


def test_a_series_that_no_file_can_refer_to_is_told_before_anything_is_segmented(places):
    images, out, model, work = places
    for path in (images / "p2").iterdir():
        one = pydicom.dcmread(path)
        del one.FrameOfReferenceUID
        one.save_as(path)

    with pytest.raises(UsageError, match=r"p2.*frame of reference"):
        predict(images, out, model, work, device="cpu", output_format="dicom_seg")

    assert not any(out.iterdir())


def test_folders_whose_names_are_no_text_are_told_before_anything_is_segmented(places, capsys):
    images, out, model, work = places
    for number in (1, 2):
        (images / f"p{number}").rename(images / os.fsdecode(b"m\xfcller %d" % number))

    with pytest.raises(DatasetError, match="2 problems"):
        predict(images, out, model, work, device="cpu", delete_input=True)

    shown = capsys.readouterr().out
    assert r"m\udcfcller 1.nii.gz" in shown
    assert r"m\udcfcller 2.nii.gz" in shown
    assert "Rename it." in shown
    assert not any(out.iterdir())
    assert len(list(images.rglob("IM*"))) == 16


def test_the_table_of_volumes_holds_any_name(tmp_path):
    rows = [Row(os.fsdecode(b"m\xfcller.nii.gz"), {"liver": 1.5}, Unlike())]

    write_table(tmp_path / "volumes.csv", rows)

    assert r"m\udcfcller.nii.gz,1.500" in (tmp_path / "volumes.csv").read_text(encoding="utf-8")


def test_doses_and_screenshots_are_passed_over(places):
    images, out, model, work = places
    others = {
        "481.2": {"Modality": "RTDOSE"},
        "7": {"Modality": "OT", "ImagePositionPatient": None},
    }
    for number, tags in others.items():
        kind = f"1.2.840.10008.5.1.4.1.1.{number}"
        series = {"SOPClassUID": kind, "SeriesInstanceUID": f"1.2.9.{number}"}
        write_all(images / number, make_series(make_image(1)[:1], OBLIQUE, **series, **tags))

    written = predict(images, out, model, work, device="cpu", delete_input=True)

    assert [path.name for path in written] == ["p1.nii.gz", "p2.nii.gz"]
    assert len(list(images.rglob("IM*"))) == 2
