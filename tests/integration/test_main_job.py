"""The main job, from a copied dataset to a verified model and its segmentations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from desk import PATIENTS, Desk

from nnunet_medseg.volume import grid_shift, read_volume, to_ras

pytestmark = pytest.mark.slow


def manifest_of(desk: Desk) -> dict:
    return json.loads((desk.output / "Abdomen" / "model" / "manifest.json").read_text())


def test_the_output_folder_holds_a_model_and_a_report(trained):
    folder = trained.output / "Abdomen"

    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    assert found == {
        "case_key.csv",
        "metrics.csv",
        "report.html",
        "split.csv",
        "training.jsonl",
        "summary.txt",
        "model/dataset.json",
        "model/fold_0/checkpoint_final.pth",
        "model/manifest.json",
        "model/plans.json",
    }
    assert PATIENTS[0] in (folder / "case_key.csv").read_text()


def test_the_manifest_tells_what_was_asked_and_what_was_measured(trained):
    manifest = manifest_of(trained)

    assert manifest["training"]["asked_s"] == 24
    assert manifest["training"]["iterations"] >= 20
    assert manifest["evaluation"]["cases"] == manifest["evaluation"]["of_cases"] == 2
    assert 0 <= manifest["evaluation"]["mean_dice"] <= 1
    assert manifest["evaluation"]["dice"]["kidney"] > 0.5
    assert manifest["split"] == {
        **{"fold": "0", "train_cases": 6, "held_out_cases": 2},
        **{"train_patients": 6, "held_out_patients": 2},
    }
    assert [(item["value"], item["index"]) for item in manifest["labels"]] == [(2, 1), (3, 2)]


def test_the_report_shows_the_patients_that_were_held_out_and_the_figures_of_the_manifest(trained):
    manifest = manifest_of(trained)
    page = (trained.output / "Abdomen" / "report.html").read_text(encoding="utf-8")

    evaluation, seen = manifest["evaluation"], manifest["trained_on"]
    assert f"On 2 held-out patients the mean Dice is {evaluation['mean_dice']:.2f}" in page
    assert evaluation["low"] <= evaluation["mean_dice"] <= evaluation["high"]
    assert page.count('src="data:image/png') == 2
    assert page.count("<svg") == 4
    assert manifest["command"] in page
    assert seen["fewest"] <= seen["mean"] <= seen["most"]
    plans = json.loads((trained.output / "Abdomen" / "model" / "plans.json").read_text())
    batch = plans["configurations"][manifest["configuration"]]["batch_size"]
    patches = manifest["training"]["iterations"] * batch
    assert seen["mean"] * manifest["split"]["train_cases"] == pytest.approx(patches)
    assert 1 <= seen["cases"] <= 6
    assert [stage["name"] for stage in manifest["stages"]][:3] == ["check", "convert", "plan"]
    curve = manifest["curves"][0]
    # The last checkpoint is written after the last epoch, and takes a moment.
    assert curve["minutes"][-1] == pytest.approx(manifest["training"]["used_s"] / 60, rel=0.05)
    assert not any(name in json.dumps(manifest) for name in PATIENTS)


def test_training_ends_with_its_time(trained):
    training = manifest_of(trained)["training"]

    assert abs(training["used_s"] - training["asked_s"]) <= 5


def test_the_dataset_copy_is_deleted_and_nothing_beside_it(trained):
    left = [path.name for path in trained.input.iterdir()]

    assert left == ["beside.txt"]
    assert "beside.txt" in trained.finished["train"].stdout
    assert list((trained.root / ".medseg" / "runs").iterdir()) == []


def test_the_checkpoint_holds_tensors_and_plain_types_only(trained):
    path = trained.output / "Abdomen" / "model" / "fold_0" / "checkpoint_final.pth"

    content = torch.load(path, weights_only=True)

    assert set(content) == {
        "network_weights",
        "trainer_name",
        "init_args",
        "inference_allowed_mirroring_axes",
    }
    assert content["trainer_name"] == "nnUNetTrainer"


def test_segmentations_have_the_name_grid_and_values_of_the_user(trained):
    results = trained.root / "Output_nnUNet_predict"

    for image in (trained.root / "images").glob("*.nii.gz"):
        original, found = read_volume(image), read_volume(results / image.name)
        assert grid_shift(original, found) < 1e-3
        assert set(np.unique(found.array)) <= {0, 2, 3}
        truth = read_volume(trained.root / "truth" / image.name).array == 2
        overlap = 2 * np.logical_and(truth, found.array == 2).sum()
        assert overlap / (truth.sum() + (found.array == 2).sum()) > 0.5


def test_segmented_images_are_deleted_and_other_files_kept(trained):
    left = [path.name for path in (trained.root / "Input_nnUNet_predict").iterdir()]

    assert left == ["notes.txt"]
    assert len(list((trained.root / "Output_nnUNet_predict").glob("*.nii.gz"))) == 2


def test_stock_nnunet_gives_the_same_segmentations_with_the_command_of_the_manifest(
    trained, tmp_path
):
    images, results = tmp_path / "images", tmp_path / "results"
    images.mkdir()
    for path in (trained.root / "images").glob("*.nii.gz"):
        name = path.name.removesuffix(".nii.gz")
        (images / f"{name}_0000.nii.gz").symlink_to(path)
    places = {
        "IMAGES": str(images),
        "SEGMENTATIONS": str(results),
        "MODEL": str(trained.output / "Abdomen" / "model"),
    }
    words = [places.get(word, word) for word in manifest_of(trained)["stock_command"].split()]
    words[0] = str(Path(sys.executable).with_name(words[0]))
    settings = {"nnUNet_compile": "f", "nnUNet_def_n_proc": "1"}

    subprocess.run(words, check=True, capture_output=True, env=os.environ | settings)

    for path in (trained.root / "images").glob("*.nii.gz"):
        stock = read_volume(results / path.name).array
        ours = read_volume(trained.root / "Output_nnUNet_predict" / path.name).array
        in_our_values = np.array([0, 2, 3])[stock]
        assert (in_our_values == ours).mean() >= 0.999
        assert len(np.unique(ours)) > 1


def test_stock_nnunet_takes_the_model_as_pretrained_weights(trained):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    from nnunet_medseg.hardware import Device
    from nnunet_medseg.nnunet.inference import Segmenter, read_model

    folder = trained.output / "Abdomen" / "model"
    network = Segmenter(read_model(folder), Device("cpu", 0, "CPU", False))._predictor.network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)

    load_pretrained_weights(network, str(folder / "fold_0" / "checkpoint_final.pth"))

    loaded = network.state_dict()
    assert all(
        torch.equal(loaded[name], before[name]) for name in before if ".seg_layers." not in name
    )


def test_one_image_stored_in_48_orientations_gets_one_segmentation(trained, tmp_path):
    import itertools

    import SimpleITK as sitk

    from nnunet_medseg.hardware import Device
    from nnunet_medseg.nnunet.inference import Segmenter, read_model
    from nnunet_medseg.volume import restore_orientation

    segmenter = Segmenter(
        read_model(trained.output / "Abdomen" / "model"), Device("cpu", 0, "CPU", False)
    )
    segmenter._predictor.use_mirroring = False  # eight times as fast, and beside the point
    (path, *_) = sorted((trained.root / "images").glob("*.nii.gz"))
    image = sitk.ReadImage(str(path))
    codes = [
        "".join(pair[flip] for pair, flip in zip(order, flips, strict=True))
        for order in itertools.permutations(["LR", "PA", "SI"])
        for flips in itertools.product([0, 1], repeat=3)
    ]
    in_world = []

    for code in codes:
        stored = tmp_path / f"{code}.nii.gz"
        sitk.WriteImage(sitk.DICOMOrient(image, code), str(stored))
        volume = read_volume(stored)
        result = restore_orientation(segmenter.segment([stored]), volume)
        assert result.array.shape == volume.array.shape
        in_world.append(to_ras(result).array)

    assert len(codes) == 48
    assert all((result == in_world[0]).mean() > 0.9999 for result in in_world)
    assert len(np.unique(in_world[0])) > 1
