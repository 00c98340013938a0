"""Two folders of label maps, held against each other."""

from __future__ import annotations

import csv
import json
import math

import nibabel as nib
import numpy as np
import pytest
from makers import make_volume

from nnunet_medseg.cli.main import main
from nnunet_medseg.errors import DatasetError, FolderError, UsageError
from nnunet_medseg.volume import Volume, write_volume
from nnunet_medseg.workflows.evaluate import evaluate


def box(low, high, value=1, side=16):
    array = np.zeros((side, side, side), np.uint8)
    array[low:high, low:high, low:high] = value
    return array


def write(folder, **maps):
    for name, array in maps.items():
        path = folder / f"{name.replace('__', '/')}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(path, make_volume(array))


@pytest.fixture
def folders(tmp_path):
    write(tmp_path / "predictions", first=box(4, 8), second=box(4, 9), third=box(0, 0))
    write(tmp_path / "labels", first=box(4, 8), second=box(4, 8), third=box(4, 8))
    return tmp_path / "predictions", tmp_path / "labels"


def test_every_case_and_label_is_measured(folders):
    result = evaluate(*folders)

    dice = {score.case: score.dice["label_1"] for score in result.scores}
    assert dice == pytest.approx({"first": 1.0, "second": 2 * 64 / (64 + 125), "third": 0.0})
    summary = result.labels["label_1"]
    assert (summary.cases, summary.missed, summary.invented) == (3, 1, 0)
    assert summary.dice.low <= summary.dice.mean <= summary.dice.high
    assert summary.sensitivity == pytest.approx(2 / 3)
    # The voxels of the phantoms are 2 x 1 x 1.5 mm: (0 + 61 + 64) of them are wrong.
    assert summary.volume_error_ml == pytest.approx(125 * 3 / 1000 / 3)


def test_the_table_names_the_worst_case_first_and_what_was_missed(folders, capsys):
    assert main(["evaluate", *map(str, folders)]) == 0

    text = capsys.readouterr().out
    assert text.index("third") < text.index("second") < text.index("first")
    assert "not found at all: label_1 in 1 of the cases" in text


def test_tables_for_programs_hold_every_figure(folders, tmp_path):
    output = tmp_path / "tables"

    evaluate(*folders, output=output)

    with (output / "metrics.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["case"] for row in rows] == ["first", "second", "third"]
    assert rows[2]["hd95_mm"] == "inf"
    content = json.loads((output / "metrics.json").read_text())
    assert content["labels"]["label_1"]["cases"] == 3
    assert content["cases"][2]["labels"]["label_1"]["hd95_mm"] == "inf"


def test_label_maps_in_folders_of_patients_are_found_beside_their_images(tmp_path):
    write(tmp_path / "labels", anna__img=box(0, 9), anna__train=box(4, 8), bea__label=box(4, 8))
    write(tmp_path / "predictions", anna__img=box(4, 8), bea__img=box(4, 8))

    result = evaluate(tmp_path / "predictions", tmp_path / "labels")

    assert [score.case for score in result.scores] == ["anna", "bea"]
    assert all(score.dice == {"label_1": 1.0} for score in result.scores)


def test_sheared_label_maps_keep_their_values(tmp_path):
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 0.6
    # Between 3 and 0 there is no 1 and no 2.
    label = nib.Nifti1Image(box(4, 10, 3), affine)
    for folder in ("predictions", "labels"):
        (tmp_path / folder).mkdir()
        nib.save(label, tmp_path / folder / "first.nii.gz")

    result = evaluate(tmp_path / "predictions", tmp_path / "labels")

    assert list(result.labels) == ["label_3"]
    (score,) = result.scores
    assert score.labels["label_3"].truth_ml == pytest.approx(6**3 * 2 / 1000, rel=0.1)


def test_whole_numbers_that_rounding_has_moved_are_labels_as_in_training(folders):
    write(folders[0], first=box(4, 8).astype(np.float32) * np.float32(1.0000001))
    write(folders[1], second=box(4, 8, 3).astype(np.float32) * np.float32(0.9999999))

    result = evaluate(*folders)

    assert set(result.labels) == {"label_1", "label_3"}
    assert result.scores[0].dice["label_1"] == 1.0
    assert result.scores[1].labels["label_3"].truth_ml == pytest.approx(64 * 3 / 1000)


def test_names_come_from_the_dataset_or_from_the_command(folders):
    (folders[1] / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))

    assert list(evaluate(*folders).labels) == ["liver"]
    assert list(evaluate(*folders, label="spleen=1").labels) == ["spleen"]


def test_files_without_a_counterpart_are_named_and_left_out(folders, capsys):
    write(folders[0], alone=box(4, 8))

    result = evaluate(*folders)

    assert "alone" in capsys.readouterr().out
    assert len(result.scores) == 3


def test_all_files_that_cannot_be_compared_are_named_in_one_go(folders, capsys):
    write(folders[0], first=box(4, 8, side=15))
    shifted = make_volume(box(4, 8))
    affine = shifted.affine.copy()
    affine[0, 3] += 5
    write_volume(folders[0] / "second.nii.gz", Volume(shifted.array, shifted.spacing_mm, affine))
    write_volume(folders[0] / "third.nii.gz", make_volume(box(4, 8) * np.float32(0.5)))
    (folders[0] / "fourth.nii.gz").write_bytes(b"junk")
    write(folders[1], fourth=box(4, 8))

    with pytest.raises(DatasetError, match="4 files"):
        evaluate(*folders)

    text = capsys.readouterr().out
    assert all(case in text for case in ("first", "second", "third", "fourth"))


@pytest.mark.parametrize("tolerance_mm", [0.0, -1.0, math.inf, math.nan])
def test_a_tolerance_that_is_no_distance_is_refused(folders, tolerance_mm):
    with pytest.raises(UsageError, match="--tolerance"):
        evaluate(*folders, tolerance_mm=tolerance_mm)


def test_folders_that_are_missing_strange_or_empty_of_labels_are_refused(folders, tmp_path):
    with pytest.raises(FolderError, match="does not exist"):
        evaluate(tmp_path / "nowhere", folders[1])
    write(tmp_path / "others", other=box(4, 8))
    with pytest.raises(DatasetError, match="counterpart"):
        evaluate(tmp_path / "others", folders[1])
    write(tmp_path / "empty", first=box(0, 0))
    with pytest.raises(DatasetError, match="background"):
        evaluate(tmp_path / "empty", tmp_path / "empty")


def test_nothing_is_written_where_nothing_was_asked(folders, tmp_path):
    before = sorted(tmp_path.rglob("*"))

    evaluate(*folders)

    assert sorted(tmp_path.rglob("*")) == before
