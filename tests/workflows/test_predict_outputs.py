"""What a prediction writes beside the segmentations: volumes, pictures, probabilities."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from foreign_models import write_stock_folder
from makers import make_image
from PIL import Image
from tiny_model import make_facts, make_parts

from nnunet_medseg.bundle.build import build_model
from nnunet_medseg.bundle.manifest import ChannelFacts, DataFacts, Range
from nnunet_medseg.errors import DatasetError, FolderError, UsageError
from nnunet_medseg.volume import Volume, read_volume, write_volume
from nnunet_medseg.workflows import predict as story
from nnunet_medseg.workflows.predict import predict
from nnunet_medseg.workflows.predicting import pipeline

DATA = DataFacts(
    spacing_mm=[Range(low=2, high=2), Range(low=1, high=1), Range(low=1.5, high=1.5)],
    size_mm=[Range(low=32, high=32), Range(low=16, high=16), Range(low=24, high=24)],
    channels=[ChannelFacts(lowest=Range(low=0, high=5), highest=Range(low=880, high=900))],
)


def write_images(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        write_volume(folder / name, make_image(number))
    return folder


def write_model(folder: Path, **changes) -> Path:
    """Write a model of ours, for labels that the user numbered 1, 5 and 3."""
    build_model(folder, make_parts(), make_facts() | changes)
    return folder


def run(tmp_path: Path, **options) -> tuple[Path, ...]:
    places = (tmp_path / name for name in ("images", "out", "model", "work"))
    return predict(*places, device="cpu", **options)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_volumes_are_those_of_the_segmentations(tmp_path):
    write_images(tmp_path / "images", "Müller.nii.gz", "b.nrrd")
    write_model(tmp_path / "model")

    written = run(tmp_path)

    rows = rows_of(tmp_path / "out" / "volumes.csv")
    assert [row["case"] for row in rows] == [path.name for path in written]
    for row, path in zip(rows, written, strict=True):
        found = read_volume(path).array
        for name, value in (("liver", 1), ("lesion", 5), ("kidney", 3)):
            # Voxels are of 2 x 1 x 1.5 mm.
            assert float(row[f"{name}_ml"]) == pytest.approx((found == value).sum() * 0.003)


def test_a_second_table_gets_a_number_of_its_own(tmp_path):
    write_images(tmp_path / "images", "a.nii.gz")
    write_stock_folder(tmp_path / "model")
    run(tmp_path, delete_input=True)
    first = (tmp_path / "out" / "volumes.csv").read_bytes()
    write_images(tmp_path / "images", "b.nii.gz")

    run(tmp_path)

    assert (tmp_path / "out" / "volumes.csv").read_bytes() == first
    assert rows_of(tmp_path / "out" / "volumes_2.csv")[0]["case"] == "b.nii.gz"


def test_images_behind_a_link_to_the_originals_are_left(tmp_path, capsys):
    write_images(tmp_path / "originals", "a.nii.gz")
    (tmp_path / "images").symlink_to(tmp_path / "originals", target_is_directory=True)
    write_stock_folder(tmp_path / "model")

    run(tmp_path, delete_input=True)

    assert (tmp_path / "originals" / "a.nii.gz").is_file()
    assert "behind a link" in capsys.readouterr().out


def test_a_label_map_beside_an_image_is_neither_segmented_nor_deleted(tmp_path, capsys):
    patient = tmp_path / "images" / "P1"
    patient.parent.mkdir()
    write_images(patient, "P1_ct.nii.gz", "P1_seg.nii.gz")
    write_stock_folder(tmp_path / "model")

    written = run(tmp_path, delete_input=True)

    assert written == (tmp_path / "out" / "P1" / "P1_ct.nii.gz",)
    assert [path.name for path in patient.iterdir()] == ["P1_seg.nii.gz"]
    assert "passed over" in capsys.readouterr().out


def test_label_maps_alone_are_nothing_to_segment(tmp_path):
    write_images(tmp_path / "images", "P1.nrrd")
    (tmp_path / "images" / "P1.nrrd").rename(tmp_path / "images" / "P1.seg.nrrd")
    write_stock_folder(tmp_path / "model")

    with pytest.raises(DatasetError, match="Nothing is left"):
        run(tmp_path, delete_input=True)

    assert (tmp_path / "images" / "P1.seg.nrrd").exists()


def test_a_preview_is_a_picture_beside_each_segmentation(tmp_path):
    write_images(tmp_path / "images", "a.nii.gz", "b.nii.gz", "b.mha")
    write_stock_folder(tmp_path / "model")

    run(tmp_path, preview=True)

    # Two images of one name keep their endings.
    for name in ("a.png", "b.nii.gz.png", "b.mha.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.width > 900
            assert np.asarray(picture).std() > 10


def test_probabilities_lie_on_the_images_grid_and_agree_with_the_segmentation(tmp_path):
    image = make_image()
    axes = np.array([[0, -1.0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array([1.5, 1.0, 2.0])
    affine[:3, 3] = (10, -20, 30)
    (tmp_path / "images").mkdir()
    turned = Volume(image.array[:, :12], image.spacing_mm, affine)
    write_volume(tmp_path / "images" / "a.nii.gz", turned)
    write_model(tmp_path / "model")

    (written,) = run(tmp_path, probabilities=True, precision="float32")

    found = read_volume(written).array
    folder = tmp_path / "out" / "probabilities" / "a"
    maps = {path.name: read_volume(path) for path in folder.iterdir()}
    assert sorted(maps) == ["1_liver.nrrd", "3_kidney.nrrd", "5_lesion.nrrd"]
    for probability in maps.values():
        assert probability.array.shape == turned.array.shape
        np.testing.assert_allclose(probability.affine, affine, atol=1e-6)
        assert probability.array.dtype == np.float32
        assert 0 <= probability.array.min() <= probability.array.max() <= 1
    labels = np.stack([maps[name].array for name in sorted(maps)])
    background = 1 - labels.sum(0)
    assert background.min() > -1e-5
    likeliest = np.array([0, 1, 3, 5])[np.stack([background, *labels]).argmax(0)]
    assert (likeliest == found).mean() > 0.999


def test_a_case_unlike_the_training_data_is_flagged_in_both_tables(tmp_path, capsys):
    write_images(tmp_path / "images", "a.nii.gz", "b.nii.gz")
    bright = make_image(7)
    write_volume(tmp_path / "images" / "c.nii.gz", bright.with_array(bright.array * 4))
    write_model(tmp_path / "model", data=DATA)

    run(tmp_path)

    rows = rows_of(tmp_path / "out" / "volumes.csv")
    assert [bool(row["unlike_intensity"]) for row in rows] == [False, False, True]
    assert not any(row["unlike_spacing"] or row["unlike_size"] for row in rows)
    shown = capsys.readouterr()
    assert "1 of 3 cases are unlike those that trained" in shown.out + shown.err
    assert shown.out.index("c.nii.gz") < shown.out.index("a.nii.gz")


def test_a_model_without_a_record_says_that_nothing_was_compared(tmp_path, capsys):
    write_images(tmp_path / "images", "a.nii.gz")
    write_stock_folder(tmp_path / "model")

    run(tmp_path)

    assert "does not record what its training data were like" in capsys.readouterr().out


def test_an_interrupted_prediction_goes_on_with_its_rows(tmp_path, monkeypatch):
    write_images(tmp_path / "images", "a.nii.gz", "b.nii.gz", "c.nii.gz")
    write_stock_folder(tmp_path / "model")
    opened = []
    plain = pipeline._open

    def interrupted(job, case, shelf):
        opened.append(case.result)
        if case.result == "c.nii.gz":
            raise KeyboardInterrupt
        return plain(job, case, shelf)

    monkeypatch.setattr(pipeline, "_open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, preview=True)
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(pipeline, "_open", plain)

    written = run(tmp_path, preview=True)

    assert "a.nii.gz" in stamps
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns == stamps["a.nii.gz"]
    rows = rows_of(tmp_path / "out" / "volumes.csv")
    assert [row["case"] for row in rows] == [path.name for path in written]
    assert not (tmp_path / "work" / story.RECORD).exists()


def test_a_picture_that_is_there_already_is_not_overwritten(tmp_path):
    write_images(tmp_path / "images", "a.nii.gz")
    write_stock_folder(tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_bytes(b"mine")

    with pytest.raises(FolderError, match=r"a\.png"):
        run(tmp_path, preview=True)

    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("output", "work"),
    [("out.nii.gz", "work"), ("out.nii.gz/below", "work"), ("out", "out.nii.gz")],
)
def test_a_file_where_a_folder_is_to_be_written_is_refused_with_a_reason(tmp_path, output, work):
    write_images(tmp_path / "images", "a.nii.gz")
    write_stock_folder(tmp_path / "model")
    (tmp_path / "out.nii.gz").write_text("precious")
    places = (tmp_path / name for name in ("images", output, "model", work))

    with pytest.raises(FolderError, match="cannot be made"):
        predict(*places, device="cpu", delete_input=True)

    assert (tmp_path / "out.nii.gz").read_text() == "precious"
    assert (tmp_path / "images" / "a.nii.gz").exists()


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(UsageError, match="float8"):
        run(tmp_path, precision="float8")


def test_images_that_do_not_fit_into_memory_are_read_again(tmp_path, monkeypatch):
    write_images(tmp_path / "images", "a.nii.gz", "b.nii.gz")
    write_stock_folder(tmp_path / "model")
    expected = [read_volume(path).array for path in run(tmp_path)]
    monkeypatch.setattr(pipeline, "free_memory_bytes", lambda: 0)

    places = (tmp_path / name for name in ("images", "out_2", "model", "work"))
    written = predict(*places, device="cpu")

    for path, array in zip(written, expected, strict=True):
        np.testing.assert_array_equal(read_volume(path).array, array)
