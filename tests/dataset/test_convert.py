"""The copy that nnU-Net reads: links where they serve, and the user's files never touched."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from makers import hashes_of, make_image, make_label, write_case, write_patients

from nnunet_medseg.dataset.channels import parse_image_types
from nnunet_medseg.dataset.checked import Wishes, check_dataset
from nnunet_medseg.dataset.checks import inspect_case
from nnunet_medseg.dataset.convert import ConversionJob, convert_cases
from nnunet_medseg.dataset.intake import read_dataset
from nnunet_medseg.dataset.labels import Label
from nnunet_medseg.dataset.raw_layout import image_path, label_path, read_cases
from nnunet_medseg.errors import DatasetError
from nnunet_medseg.volume import EXTENSIONS, grid_shift, read_volume, write_volume

ONE = (Label("a", 1, 1),)


def make_job(folder, case, labels=ONE):
    return ConversionJob(case, inspect_case(case).facts, labels, folder / "raw")


def converted(folder):
    (case,) = read_cases(folder / "raw")
    return case


def test_files_that_serve_are_linked_and_nothing_is_written(tmp_path):
    case = write_case(tmp_path / "set")

    written = convert_cases([make_job(tmp_path, case)])

    assert written == 0
    assert converted(tmp_path).images[0].readlink() == case.images[0].resolve()
    assert converted(tmp_path).label.readlink() == case.label.resolve()


@pytest.mark.parametrize("extension", [*EXTENSIONS[1:], ".NII.GZ", ".MHA"])
def test_other_formats_are_written_as_nifti_with_the_same_voxels_and_grid(tmp_path, extension):
    image = make_image(origin_mm=(5.0, -6.0, 7.0))
    case = write_case(
        tmp_path / "set", image, make_label(origin_mm=(5.0, -6.0, 7.0)), extension=extension
    )

    written = convert_cases([make_job(tmp_path, case)])
    back = read_volume(converted(tmp_path).images[0])

    assert written == 2
    np.testing.assert_array_equal(back.array, image.array)
    assert grid_shift(back, image) < 1e-3
    assert converted(tmp_path).images[0].name == "case_0001_0000.nii.gz"


def test_label_values_become_one_to_n_and_all_others_background(tmp_path):
    case = write_case(tmp_path / "set", label=make_label((9, 4, 2)))
    labels = (Label("b", 4, 1), Label("c", 9, 2))

    written = convert_cases([make_job(tmp_path, case, labels)])
    back = read_volume(converted(tmp_path).label).array

    assert written == 1
    assert [int(back[place, 5, 5]) for place in (1, 2, 3)] == [2, 1, 0]
    assert converted(tmp_path).images[0].is_symlink()


def test_a_shifted_label_map_is_written_on_the_grid_of_the_image(tmp_path):
    case = write_case(tmp_path / "set", label=make_label(origin_mm=(0, 0.05, 0)))

    written = convert_cases([make_job(tmp_path, case)])
    result = converted(tmp_path)

    assert written == 1
    image, label = read_volume(result.images[0]), read_volume(result.label)
    np.testing.assert_array_equal(label.affine, image.affine)
    np.testing.assert_array_equal(label.array, make_label().array)


def test_a_shifted_second_channel_is_written_on_the_grid_of_the_first(tmp_path):
    case = write_case(tmp_path / "set")
    second = tmp_path / "set" / "img_2.nii.gz"
    write_volume(second, make_image(2, origin_mm=(0.05, 0, 0)))

    convert_cases([make_job(tmp_path, replace(case, images=(*case.images, second)))])
    images = [read_volume(path) for path in converted(tmp_path).images]

    np.testing.assert_array_equal(images[1].affine, images[0].affine)
    np.testing.assert_array_equal(images[1].array, make_image(2).array)


def test_channels_lie_in_the_order_of_the_wish(tmp_path):
    folder = write_patients(tmp_path / "set", cases=1, channels=("FLAIR", "T1"))
    wishes = Wishes((), parse_image_types("T1,FLAIR"), "all", 0)
    checked = check_dataset(read_dataset(folder, None), wishes).checked

    convert_cases([ConversionJob(checked.cases[0], checked.facts[0], ONE, tmp_path / "raw")])

    names = [path.readlink().name for path in converted(tmp_path).images]
    assert names == ["img_T1.nii.gz", "img_FLAIR.nii.gz"]


def test_held_out_cases_lie_beside_those_that_train_since_another_fold_trains_on_them(tmp_path):
    case = write_case(tmp_path / "set")
    held_out = replace(write_case(tmp_path / "other"), name="case_0002", is_held_out=True)

    convert_cases([make_job(tmp_path, case), make_job(tmp_path, held_out)])

    assert [case.name for case in read_cases(tmp_path / "raw")] == ["case_0001", "case_0002"]


def test_the_files_of_the_user_stay_as_they_are_and_no_name_tells_of_the_patient(tmp_path):
    cases = [
        replace(
            write_case(
                tmp_path / "set" / f"Müller {ending}",
                label=make_label((3,), origin_mm=(0, 0.05, 0)),
                extension=ending,
            ),
            name=f"case_{number:04d}",
        )
        for number, ending in enumerate(EXTENSIONS)
    ]
    before = hashes_of(tmp_path / "set")

    convert_cases([make_job(tmp_path, case, (Label("x", 3, 1),)) for case in cases])

    assert hashes_of(tmp_path / "set") == before
    names = [path.relative_to(tmp_path).as_posix() for path in (tmp_path / "raw").rglob("*")]
    assert not any("Müller" in name or "img" in name for name in names)


def test_a_conversion_that_was_killed_is_simply_done_again(tmp_path):
    linked = write_case(tmp_path / "set" / "linked")
    written = replace(write_case(tmp_path / "set" / "w", extension=".mha"), name="case_0002")
    jobs = [make_job(tmp_path, linked), make_job(tmp_path, written)]
    image_path(tmp_path / "raw", "case_0001", 0).parent.mkdir(parents=True)
    label_path(tmp_path / "raw", "case_0001").parent.mkdir(parents=True)
    image_path(tmp_path / "raw", "case_0001", 0).write_bytes(b"half")
    label_path(tmp_path / "raw", "case_0002").write_bytes(b"half")

    convert_cases(jobs)
    once = hashes_of(tmp_path / "raw")
    convert_cases(jobs)

    assert hashes_of(tmp_path / "raw") == once
    for case in read_cases(tmp_path / "raw"):
        np.testing.assert_array_equal(read_volume(case.images[0]).array, make_image().array)
        np.testing.assert_array_equal(read_volume(case.label).array, make_label().array)


def test_a_link_that_was_left_there_does_not_lead_the_writing_into_the_users_file(tmp_path):
    case = write_case(tmp_path / "set", label=make_label((2,)))
    target = label_path(tmp_path / "raw", "case_0001")
    target.parent.mkdir(parents=True)
    target.symlink_to(case.label)
    before = hashes_of(tmp_path / "set")

    convert_cases([make_job(tmp_path, case, (Label("a", 2, 1),))])

    assert hashes_of(tmp_path / "set") == before
    assert read_volume(target).array.max() == 1


def test_where_links_are_not_allowed_files_are_copied(tmp_path, monkeypatch):
    case = write_case(tmp_path / "set")
    job = make_job(tmp_path, case)

    def refuse(*_):
        raise OSError

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    convert_cases([job])

    assert not converted(tmp_path).images[0].is_symlink()
    assert converted(tmp_path).images[0].read_bytes() == case.images[0].read_bytes()


def test_a_file_that_vanished_after_the_check_is_named_by_its_patient(tmp_path):
    case = write_case(tmp_path / "set", label=make_label((2,)))
    job = make_job(tmp_path, case)
    case.label.unlink()

    with pytest.raises(DatasetError, match="Müller has changed since it was checked"):
        convert_cases([job])
