"""Two tiny models on phantoms whose label maps one of them drew."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from makers import hashes_of
from tiny_model import make_facts, make_parts

from nnunet_medseg.bundle.build import build_model
from nnunet_medseg.bundle.manifest import LabelEntry
from nnunet_medseg.cli.main import main
from nnunet_medseg.errors import DatasetError, FolderError, ModelError
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.phantom import PhantomSpec, write_images
from nnunet_medseg.workflows.compare import _image_order, compare
from nnunet_medseg.workflows.predict import predict

CASES = 6  # the fewest with which a difference can be significant
# Stored in LPS, which our models turn to RAS and a model with a plain reader does not.
SPEC = PhantomSpec(shape=(16, 16, 16), varied_orientation=False)

LABELS = [
    LabelEntry(name="liver", value=1, index=1),
    LabelEntry(name="lesion", value=5, index=2),
    LabelEntry(name="kidney", value=2, index=3),
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    """A model of ours, whose labels 1, 5 and 2 have the indices 1, 2 and 3; it writes no lesion."""
    folder = tmp_path_factory.mktemp("models") / "Ours"
    build_model(folder, make_parts(), make_facts() | {"labels": LABELS})
    return folder


@pytest.fixture(scope="module")
def drawn(ours, tmp_path_factory) -> Path:
    """Patient folders with the label maps that our model writes, all marked for validation."""
    root = tmp_path_factory.mktemp("drawn")
    write_images(root / "images", root / "truth", SPEC, cases=CASES)
    places = (root / "images", root / "maps", ours, root / "work")
    maps = predict(*places, device="cpu", precision="float32")
    for number, path in enumerate(maps, start=1):
        patient = root / "dataset" / f"Müller {number}"
        patient.mkdir(parents=True)
        shutil.copy(root / "images" / path.name, patient / "img.nii.gz")
        shutil.copy(path, patient / "validate.nii.gz")
    return root / "dataset"


@pytest.fixture
def work(tmp_path) -> Path:
    return tmp_path / "work"


def copy_model(model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(model, folder))


def make_stock(folder: Path) -> Path:
    """Make a model of stock nnU-Net: no manifest, its default reader, labels in another order.

    Its index 2 is the kidney, which is 3 in ours, and the weights of its last layer stand so.
    """
    parts = make_parts()
    ((fold, checkpoint),) = parts.checkpoints.items()
    weights = {
        name: tensor[[0, 1, 3, 2]] if "seg_layers" in name else tensor
        for name, tensor in checkpoint["network_weights"].items()
    }
    parts = replace(
        parts,
        plans=parts.plans | {"image_reader_writer": "SimpleITKIO"},
        checkpoints={fold: checkpoint | {"network_weights": weights}},
    )
    build_model(folder, parts, make_facts())
    (folder / "manifest.json").unlink()
    return folder


def with_values(model: Path, folder: Path, **values: int) -> Path:
    """Make a copy whose labels have other values in the label maps of the user."""
    copy_model(model, folder)
    labels = read_json(folder / "manifest.json")["labels"]
    renamed = [label | {"value": values.get(label["name"], label["value"])} for label in labels]
    change(folder / "manifest.json", labels=renamed)
    return folder


def change(path: Path, **entries: object) -> None:
    write_json(path, read_json(path) | entries)


def means_of(comparison, name: str) -> dict[str, float]:
    (standing,) = [item for item in comparison.standings if item.name == name]
    return {label: interval.mean for label, interval in standing.dice.items()}


# --- what is compared --------------------------------------------------------------------------


def test_a_model_agrees_with_its_copy_and_the_difference_is_noise(ours, drawn, work, capsys):
    twin = copy_model(ours, work.parent / "Twin")

    comparison = compare(ours, twin, drawn, work, device="cpu")

    assert means_of(comparison, "Ours") == {"liver": 1.0, "kidney": 1.0}
    assert means_of(comparison, "Twin") == means_of(comparison, "Ours")
    assert comparison.is_noise
    assert "is within noise on 6 cases" in comparison.verdict
    shown = capsys.readouterr().out
    assert comparison.verdict in shown
    assert "both segment every case alike" in shown


def test_sessions_of_a_patient_count_together(ours, drawn, work):
    study = work.parent / "Study"
    for number, patient in enumerate(sorted(drawn.iterdir())):
        place = f"sub-{number // 2}/ses-{number % 2}/anat"
        start = f"sub-{number // 2}_ses-{number % 2}"
        image, label = study / place, study / "derivatives" / "drawn" / place
        for folder in (image, label):
            folder.mkdir(parents=True)
        shutil.copy(patient / "img.nii.gz", image / f"{start}_T1w.nii.gz")
        shutil.copy(patient / "validate.nii.gz", label / f"{start}_dseg.nii.gz")

    comparison = compare(ours, copy_model(ours, work.parent / "Twin"), study, work, device="cpu")

    assert "With 6 images of 3 patients no difference could be" in comparison.verdict


def test_models_that_mean_different_labels_by_one_value_are_refused(ours, drawn, work):
    swapped = with_values(ours, work.parent / "Swapped", liver=2, kidney=1)

    with pytest.raises(ModelError, match="different labels by the values 1, 2") as refusal:
        compare(swapped, ours, drawn, work, device="cpu")

    assert "Swapped writes" in refusal.value.problem
    assert "-l NAME=VALUE" in refusal.value.fix


def test_a_stock_model_that_turns_no_images_is_compared_by_the_values_that_both_write(
    ours, drawn, work, capsys
):
    stock = make_stock(work.parent / "Stock")

    comparison = compare(ours, stock, drawn, work, device="cpu")

    assert means_of(comparison, "Ours") == {"liver": 1.0, "kidney": 1.0}
    # Mirrored prediction gives the turned map for the turned image, but for rounding.
    assert means_of(comparison, "Stock") == pytest.approx({"liver": 1, "kidney": 1}, abs=0.05)
    shown = capsys.readouterr().out
    assert "not compared, since not in both models and the label maps: lesion = 3, lesion = 5" in (
        shown
    )
    table = shown.partition("Cases to look at")[2]
    agreements = [float(line.split()[-1]) for line in table.split("\n") if "Müller" in line]
    assert len(agreements) == 5
    assert agreements == sorted(agreements)
    assert agreements[0] > 0.95


def test_models_in_folders_of_one_name_are_told_apart(ours, drawn, work):
    first = copy_model(ours, work.parent / "Liver" / "model")
    second = copy_model(ours, work.parent / "Lung" / "model")

    comparison = compare(first, second, drawn, work, device="cpu")

    assert [item.name for item in comparison.standings] == ["A model", "B model"]


def test_images_are_given_in_the_order_that_a_model_wants():
    assert _image_order(("T1", "Flair"), ("FLAIR", "T1")) == (1, 0)
    assert _image_order(("T1", "T2"), ("FLAIR", "T1")) == (0, 1)
    assert _image_order(("MRI", "MRI"), ("MRI", "MRI")) == (0, 1)


# --- what is left behind -----------------------------------------------------------------------


def test_the_dataset_stays_as_it_was_and_nothing_stays_in_the_work_folder(ours, drawn, work):
    before = hashes_of(drawn)

    compare(ours, ours, drawn, work, device="cpu")

    assert hashes_of(drawn) == before
    assert {path.name for path in work.iterdir()} == {"lock", "made-by-medseg"}


def test_the_command_writes_the_dice_of_every_case_where_it_was_asked_to(ours, drawn, work):
    twin = copy_model(ours, work.parent / "Twin")
    folder = work.parent / "out"
    models, places = [str(ours), str(twin)], ["--work_dir", str(work), "--output", str(folder)]

    status = main(["compare", *models, "--dataset", str(drawn), *places, "--device", "cpu"])

    assert status == 0
    # Its rows are called after the user's folders.
    assert (folder / "comparison.csv").stat().st_mode & 0o777 == 0o600
    with (folder / "comparison.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 2 * CASES
    assert rows[0] == {
        "case": "Müller 1",
        "name": "Ours",
        "dice_liver": "1.000000",
        "dice_kidney": "1.000000",
        "mean_dice": "1.000000",
    }


def test_a_comparison_that_is_there_is_never_overwritten(ours, drawn, work):
    folder = work.parent / "out"
    folder.mkdir()
    (folder / "comparison.csv").write_text("precious")

    with pytest.raises(FolderError, match="already"):
        compare(ours, ours, drawn, work, device="cpu", output=folder)

    assert (folder / "comparison.csv").read_text() == "precious"
    assert not work.exists()


# --- what is refused ---------------------------------------------------------------------------


def test_a_model_of_other_channels_is_refused_with_both_counts(ours, drawn, work):
    other = copy_model(ours, work.parent / "Other")
    change(other / "dataset.json", channel_names={"0": "T1", "1": "FLAIR"})

    with pytest.raises(ModelError, match=r"Other wants 2 images a case \(T1, FLAIR\).* has 1"):
        compare(ours, other, drawn, work, device="cpu")


def test_models_without_a_common_label_are_refused_with_what_each_has(ours, drawn, work):
    other = with_values(ours, work.parent / "Other", liver=11, lesion=15, kidney=12)

    with pytest.raises(ModelError) as refusal:
        compare(ours, other, drawn, work, device="cpu")

    assert "Ours writes liver = 1, lesion = 5, kidney = 2" in refusal.value.problem
    assert "Other writes liver = 11, lesion = 15, kidney = 12" in refusal.value.problem
    assert "the label maps hold label_1 = 1, label_2 = 2" in refusal.value.problem


def test_problems_of_the_dataset_are_shown_and_stop_the_comparison(ours, drawn, work, capsys):
    damaged = Path(shutil.copytree(drawn, work.parent / "damaged"))
    (damaged / "Müller 2" / "img.nii.gz").write_bytes(b"no image")

    with pytest.raises(DatasetError, match="1 problem, listed above"):
        compare(ours, ours, damaged, work, device="cpu")

    assert "unreadable" in capsys.readouterr().out


def test_a_folder_without_a_model_is_refused(drawn, work):
    with pytest.raises(ModelError, match="found: none"):
        compare(drawn, drawn, drawn, work)
