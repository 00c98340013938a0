"""Finding the one dataset in an input folder, however it was copied there."""

from __future__ import annotations

from functools import partial

import pytest
from layout_makers import touch, write_class_masks
from makers import make_label, write_patient, write_patients, write_raw

from nnunet_medseg.dataset.intake import (
    check_extension,
    check_layout,
    find_dataset,
    read_dataset,
)
from nnunet_medseg.dataset.layouts import class_names, layouts
from nnunet_medseg.dataset.layouts.listing import all_images, is_litter
from nnunet_medseg.errors import DatasetError, FolderError, UsageError
from nnunet_medseg.volume import EXTENSIONS, VolumeError, write_volume


@pytest.mark.parametrize("text", ["nii.gz", ".nii.gz", " NII.GZ ", ".Nii.Gz"])
def test_an_extension_is_read_with_and_without_the_dot(text):
    assert check_extension(text) == ".nii.gz"


@pytest.mark.parametrize("text", ["", ".", "png", "nii.bz2", "*.nii", "dicomdir"])
def test_an_unknown_extension_is_refused_with_the_known_ones(text):
    with pytest.raises(UsageError) as caught:
        check_extension(text)

    assert ", ".join(EXTENSIONS) in caught.value.fix


def test_patients_directly_in_the_input_folder_are_the_dataset(tmp_path):
    write_patients(tmp_path, cases=2)

    assert find_dataset(tmp_path) == tmp_path


def test_one_patient_directly_in_the_input_folder_is_a_dataset(tmp_path):
    write_patients(tmp_path, cases=1)

    assert find_dataset(tmp_path) == tmp_path
    assert len(read_dataset(tmp_path, None).cases) == 1


@pytest.mark.parametrize("write", [write_patients, write_raw])
@pytest.mark.parametrize("wrapping", ["set", "a/b/Mein Datensatz ü"])
def test_a_wrapped_dataset_is_found(tmp_path, write, wrapping):
    folder = write(tmp_path / wrapping, cases=1)
    (tmp_path / "README.txt").touch()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / ".DS_Store").touch()

    assert find_dataset(tmp_path) == folder
    assert len(read_dataset(folder, None).cases) == 1


def test_a_folder_that_is_no_dataset_beside_it_is_left_alone(tmp_path):
    folder = write_patients(tmp_path / "set", cases=1)
    (tmp_path / "notes").mkdir()

    assert find_dataset(tmp_path) == folder


def test_two_datasets_are_refused_by_name(tmp_path):
    write_patients(tmp_path / "A", cases=1)
    write_raw(tmp_path / "B", cases=1)

    with pytest.raises(DatasetError, match=r"2 datasets in .*: A, B"):
        find_dataset(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FolderError, match="does not exist"):
        find_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("litter", [(), (".DS_Store", "Thumbs.db", "._img.nii.gz", ".gitkeep")])
def test_an_empty_folder_is_refused(tmp_path, litter):
    for name in litter:
        (tmp_path / name).touch()

    with pytest.raises(DatasetError, match="is empty"):
        find_dataset(tmp_path)


def test_what_is_no_dataset_is_refused_with_what_is_there(tmp_path):
    write_patient(tmp_path / "p1")
    for path in (tmp_path / "p1").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "p1").rmdir()

    with pytest.raises(DatasetError, match=r"it holds 2 \.nii\.gz"):
        find_dataset(tmp_path)


def test_links_are_not_followed(tmp_path):
    write_patients(tmp_path / "elsewhere", cases=2)
    write_raw(tmp_path / "raw", cases=2)
    for name, target in {"set": "elsewhere", "p1": "elsewhere/p1"}.items():
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "link").symlink_to(tmp_path / target)
    (tmp_path / "mixed").mkdir()
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / "mixed" / name).symlink_to(tmp_path / "raw" / name)

    for folder in (tmp_path / "set", tmp_path / "p1", tmp_path / "mixed"):
        with pytest.raises(DatasetError, match="No dataset is recognised"):
            find_dataset(folder)


def test_a_linked_file_is_no_image(tmp_path):
    patient = write_patients(tmp_path / "set", cases=1) / "p1"
    (patient / "img.nii.gz").rename(tmp_path / "outside.nii.gz")
    (patient / "img.nii.gz").symlink_to(tmp_path / "outside.nii.gz")

    dataset = read_dataset(tmp_path / "set", None)

    assert dataset.cases == ()
    assert [finding.rule for finding in dataset.findings] == ["no image"]


def test_litter_is_not_taken_for_images(tmp_path):
    folder = write_patients(tmp_path / "set", cases=1)
    (folder / "p1" / "._img.nii.gz").write_bytes(b"junk")
    (folder / "__MACOSX" / "p1").mkdir(parents=True)
    (folder / "__MACOSX" / "p1" / "._train.nii.gz").write_bytes(b"junk")

    dataset = read_dataset(folder, None)

    assert len(dataset.cases) == 1
    assert dataset.findings == ()
    assert len(all_images(folder, EXTENSIONS)) == 2
    assert is_litter(folder / "__MACOSX")


def test_a_layout_is_known_by_the_names_of_people_and_of_programs():
    names = ["AUTO", "nnU-Net raw", "nnunet_raw", "Patient Folders", "bids", "Class-Masks"]

    found = [check_layout(name) for name in names]

    assert found == ["auto", "nnunet_raw", "nnunet_raw", "patient_folders", "bids", "class_masks"]
    with pytest.raises(UsageError, match="not a layout") as caught:
        check_layout("folders")
    assert (
        "auto, bids, class_masks, decathlon, dicom, dicom_with_label_maps, flat" in caught.value.fix
    )


def test_two_layouts_that_fit_are_a_question_to_the_user(tmp_path):
    folder = write_class_masks(tmp_path / "set")
    for number in (1, 2, 3):
        write_volume(folder / f"s{number}" / "label.nii.gz", make_label())

    for ask in (find_dataset, partial(read_dataset, extension=None)):
        with pytest.raises(DatasetError, match="read in 2 ways") as caught:
            ask(folder)
        assert "a folder of masks (segmentations)" in caught.value.problem
        assert "a label map called label" in caught.value.problem
        assert "--layout class_masks or --layout patient_folders" in caught.value.fix
    answered = {
        name: read_dataset(find_dataset(tmp_path, name), None, name)
        for name in ("class_masks", "patient_folders")
    }

    assert len(answered["class_masks"].cases[0].masks) == 2
    assert answered["patient_folders"].cases[0].label.name == "label.nii.gz"
    assert [len(dataset.cases) for dataset in answered.values()] == [3, 3]
    assert not any(dataset.findings for dataset in answered.values())


def test_a_layout_that_is_asked_for_and_is_not_there_is_refused(tmp_path):
    write_patients(tmp_path / "set", cases=1)

    with pytest.raises(
        DatasetError, match=r"not laid out as --layout bids .* 2 \.nii\.gz"
    ) as caught:
        find_dataset(tmp_path, "bids")

    assert "sub-01/anat" in caught.value.fix


def test_what_is_no_dataset_is_told_every_layout(tmp_path):
    (tmp_path / "notes.txt").touch()

    with pytest.raises(DatasetError) as caught:
        find_dataset(tmp_path)

    for layout in layouts().values():
        assert f"{layout.NAME}: {layout.DESCRIPTION}" in caught.value.fix
    assert len(caught.value.fix) < 1100


@pytest.mark.parametrize("extension", sorted({*EXTENSIONS} - {".seg.nrrd"}))
@pytest.mark.parametrize("asked", [True, False])
def test_every_format_is_taken_asked_for_or_not(tmp_path, extension, asked):
    folder = write_patients(tmp_path / "set", cases=2, extension=extension)

    dataset = read_dataset(folder, extension if asked else None)

    assert len(dataset.cases) == 2
    assert dataset.findings == ()


def test_without_a_wish_every_format_counts(tmp_path):
    folder = write_patients(tmp_path / "set", cases=1)
    write_patient(folder / "p8", extension=".mha")
    write_patient(folder / "p9", extension=".nrrd")

    dataset = read_dataset(folder, None)
    asked = read_dataset(folder, ".nrrd")

    assert [case.source for case in dataset.cases] == ["p1", "p8", "p9"]
    assert dataset.findings == ()
    assert [case.source for case in asked.cases] == ["p9"]
    assert {finding.rule for finding in asked.findings} == {"empty folder"}


@pytest.mark.parametrize("write", [write_patients, write_raw])
def test_an_ending_that_is_not_there_is_refused(tmp_path, write):
    folder = write(tmp_path / "set", cases=1)

    with pytest.raises(DatasetError, match=r"no \.mha file in .* there is \.nii\.gz"):
        read_dataset(folder, ".mha")


def test_an_ending_asked_of_an_empty_raw_dataset_is_refused(tmp_path):
    folder = write_raw(tmp_path / "set", cases=0)

    with pytest.raises(DatasetError, match="there is no image"):
        read_dataset(folder, ".mha")


def test_a_folder_without_a_layout_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="No dataset is recognised"):
        read_dataset(tmp_path, None)


def test_names_in_label_maps_are_used_where_the_layout_has_none(tmp_path, monkeypatch):
    folder = write_patients(tmp_path / "set", cases=2)
    names = {"p1": {1: "liver", 2: "7", 0: "air"}, "p2": {1: "liver", 3: "tumor"}}
    monkeypatch.setattr(class_names, "segment_names", lambda path: names[path.parent.name])

    dataset = read_dataset(folder, None)

    assert dataset.label_names == {1: "liver", 3: "tumor"}
    assert dataset.findings == ()


def test_a_value_that_is_called_otherwise_in_another_label_map_is_a_finding(tmp_path, monkeypatch):
    folder = write_patients(tmp_path / "set", cases=3)
    names = {"p1": {1: "liver"}, "p2": {1: "tumor"}}

    def read(path):
        if path.parent.name == "p3":
            raise VolumeError("unreadable", "it cannot be read", "Export it again.")
        return names[path.parent.name]

    monkeypatch.setattr(class_names, "segment_names", read)

    (finding,) = read_dataset(folder, None).findings

    assert (finding.severity, finding.case) == ("error", "p2")
    assert "calls the value 1 tumor; it is liver in p1" in finding.message


@pytest.mark.parametrize(
    "names", [("img", "train"), ("ct", "ct"), ("a", "a_seg"), ("a", "Segmentation")]
)
@pytest.mark.parametrize("asked", [None, ".nrrd"])
def test_a_segmentation_of_slicer_is_the_label_map_of_a_patient(tmp_path, names, asked):
    image, label = (f"{names[0]}.nrrd", f"{names[1]}.seg.nrrd")
    touch(tmp_path, f"p1/{image}", f"p1/{label}")

    dataset = read_dataset(tmp_path, asked)

    assert [path.name for path in dataset.cases[0].files] == [image, label]
    assert dataset.findings == ()
