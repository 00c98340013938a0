"""The layout of nnU-Net's raw folder: files, channels, and what does not fit."""

from __future__ import annotations

from makers import make_image, make_label, write_raw

from nnunet_medseg.dataset.intake import read_dataset
from nnunet_medseg.volume import write_volume

DESCRIPTION = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "edema": 1, "tumor": 2},
}


def test_cases_channels_and_labels_are_read(tmp_path):
    folder = write_raw(tmp_path / "Dataset001_X", channels=2, description=DESCRIPTION)

    dataset = read_dataset(folder, None)

    assert dataset.layout == "nnU-Net raw"
    assert [case.source for case in dataset.cases] == ["c1", "c2", "c3"]
    assert [path.name for path in dataset.cases[0].images] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]
    assert dataset.channels == ("T1", "FLAIR")
    assert dataset.label_names == {1: "edema", 2: "tumor"}
    assert dataset.findings == ()


def test_without_a_description_nothing_is_named(tmp_path):
    dataset = read_dataset(write_raw(tmp_path / "set", channels=2), None)

    assert dataset.channels == ("", "")
    assert dataset.label_names == {}


def test_channel_names_of_another_number_are_not_used(tmp_path):
    dataset = read_dataset(write_raw(tmp_path / "set", description=DESCRIPTION), None)

    assert dataset.channels == ("",)


def test_names_with_blanks_umlauts_and_digits_are_kept_apart(tmp_path):
    folder = write_raw(tmp_path / "set", cases=0)
    for seed, name in enumerate(["Müller 1", "0001", "a_0000"]):
        write_volume(folder / "imagesTr" / f"{name}_0000.nii.gz", make_image(seed))
        write_volume(folder / "labelsTr" / f"{name}.nii.gz", make_label())

    dataset = read_dataset(folder, None)

    assert [case.source for case in dataset.cases] == ["0001", "Müller 1", "a_0000"]
    assert dataset.findings == ()


def test_all_that_does_not_fit_is_found_in_one_go(tmp_path):
    folder = write_raw(tmp_path / "set", cases=4, channels=2)
    (folder / "imagesTr" / "c1_0001.nii.gz").unlink()
    (folder / "labelsTr" / "c2.nii.gz").unlink()
    (folder / "imagesTr" / "c3_0000.nii.gz").unlink()
    (folder / "imagesTr" / "c3_0001.nii.gz").rename(folder / "imagesTr" / "stray.nii.gz")

    dataset = read_dataset(folder, None)

    assert [case.source for case in dataset.cases] == ["c4"]
    assert {(finding.case, finding.rule) for finding in dataset.findings} == {
        ("c1", "channels"),
        ("c2", "no label map"),
        ("c3", "no image"),
        ("stray.nii.gz", "file name"),
    }


def test_an_image_or_label_that_is_there_in_two_formats_is_named_and_not_guessed(tmp_path):
    folder = write_raw(tmp_path / "set", cases=0)
    for extension in (".nrrd", ".mha"):
        write_volume(folder / "imagesTr" / f"c1_0000{extension}", make_image())
        write_volume(folder / "labelsTr" / f"c1{extension}", make_label())

    both = read_dataset(folder, None)
    one = read_dataset(folder, ".mha")

    assert [finding.rule for finding in both.findings] == ["file name"] * 2
    assert one.findings == ()
    assert len(one.cases) == 1


def test_images_for_testing_are_left_alone(tmp_path):
    folder = write_raw(tmp_path / "set", cases=2)
    (folder / "imagesTs").mkdir()
    write_volume(folder / "imagesTs" / "t1_0000.nii.gz", make_image())

    dataset = read_dataset(folder, None)

    assert len(dataset.cases) == 2
    assert dataset.findings == ()
