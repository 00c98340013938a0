"""The proof of a model: it passes, and any change makes it fail."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_medseg.bundle.verify import Proof, _check, verify_in_fresh_process
from nnunet_medseg.errors import VerificationError
from nnunet_medseg.files import hash_file, read_json, write_json


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Keep what the check sets for nnU-Net out of other tests."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.fixture
def copy(built, tmp_path) -> Proof:
    """Return the proof of a copy that may be spoiled."""
    shutil.copytree(built.model, tmp_path / "model")
    return replace(built.proof, model=str(tmp_path / "model"), log=str(tmp_path / "log.txt"))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def add_a_file(model: Path) -> None:
    (model / "fold_0" / "debug.json").touch()


def remove_a_file(model: Path) -> None:
    (model / "dataset.json").unlink()


def remove_the_manifest(model: Path) -> None:
    (model / "manifest.json").unlink()


def change_the_weights(model: Path) -> None:
    flip_a_byte(model / "fold_0" / "checkpoint_final.pth")


def change_the_plans(model: Path) -> None:
    plans = read_json(model / "plans.json")
    plans["configurations"]["3d_fullres"]["spacing"] = [1.0, 1.0, 1.0]
    write_json(model / "plans.json", plans)


def test_a_model_passes_its_check(built):
    problem, agreement = _check(built.proof)

    assert problem == ""
    assert agreement == 1.0


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (add_a_file, "the files are not those of the manifest"),
        (remove_a_file, "the files are not those of the manifest"),
        (remove_the_manifest, "the files are not those of the manifest"),
        (change_the_weights, "a file differs from its hash"),
        (change_the_plans, "a file differs from its hash"),
    ],
)
def test_a_folder_that_was_changed_fails(copy, spoil, expected):
    spoil(Path(copy.model))

    problem, _ = _check(copy)

    assert problem == expected


def test_weights_that_are_not_those_of_the_training_fail(built):
    tensors = built.proof.tensors["0"]
    tensors = tensors | {next(iter(tensors)): "0" * 64}

    problem, _ = _check(replace(built.proof, tensors={"0": tensors}))

    assert problem == "the weights differ from those of the training"


def test_a_tensor_more_than_the_training_had_fails(built):
    _, *rest = built.proof.tensors["0"].items()

    problem, _ = _check(replace(built.proof, tensors={"0": dict(rest)}))

    assert problem == "the weights differ from those of the training"


# --- models of several folds -------------------------------------------------------------------


def exchange_folds(model: Path) -> None:
    """Give each of two folds the weights of the other, and correct the manifest."""
    paths = [model / f"fold_{fold}" / "checkpoint_final.pth" for fold in (0, 1)]
    first, second = (path.read_bytes() for path in paths)
    for path, content in zip(paths, (second, first), strict=True):
        path.write_bytes(content)
    manifest = read_json(model / "manifest.json")
    for path in paths:
        manifest["files"][path.relative_to(model).as_posix()] = hash_file(path)
    write_json(model / "manifest.json", manifest)


def test_a_model_of_two_folds_passes_its_check(ensemble):
    problem, agreement = _check(ensemble.proof)

    assert problem == ""
    assert agreement == 1.0


def test_weights_of_one_fold_in_the_place_of_another_fail(ensemble, tmp_path):
    shutil.copytree(ensemble.model, tmp_path / "model")
    exchange_folds(tmp_path / "model")

    problem, _ = _check(replace(ensemble.proof, model=str(tmp_path / "model")))

    assert problem == "the weights differ from those of the training"


@pytest.mark.parametrize("fold", ["0", "1"])
def test_one_fold_that_is_not_that_of_the_training_fails(ensemble, fold):
    tensors = ensemble.proof.tensors
    changed = tensors | {fold: tensors[fold] | {next(iter(tensors[fold])): "0" * 64}}

    problem, _ = _check(replace(ensemble.proof, tensors=changed))

    assert problem == "the weights differ from those of the training"


def test_the_segmentation_of_one_fold_is_not_that_of_both(built, ensemble):
    problem, _ = _check(replace(ensemble.proof, reference=built.proof.reference))

    assert problem.startswith("stock nnU-Net agrees on ")


# --- the segmentation --------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.01], ids=["shape", "voxels"])
def test_a_segmentation_that_is_not_that_of_the_training_fails(built, tmp_path, shift):
    with np.load(built.proof.reference) as stored:
        labels = stored["labels"].copy()
    changed = int(shift * labels.size)
    labels.reshape(-1)[:changed] += 1
    np.savez(tmp_path / "reference.npz", labels=labels if changed else labels[:-1])

    problem, agreement = _check(replace(built.proof, reference=str(tmp_path / "reference.npz")))

    assert problem.startswith("stock nnU-Net agrees on ")
    assert agreement < 0.999


@pytest.mark.slow
def test_a_fresh_process_agrees(built):
    assert verify_in_fresh_process(built.proof) == 1.0


def test_what_a_fresh_process_finds_wrong_is_an_error_of_verification(copy):
    add_a_file(Path(copy.model))

    with pytest.raises(VerificationError, match="the files are not those of the manifest"):
        verify_in_fresh_process(copy)


def test_a_check_that_cannot_be_run_is_an_error_of_verification_and_logged(copy, tmp_path):
    (Path(copy.model) / "manifest.json").write_text("{")

    with pytest.raises(VerificationError, match="could not be run"):
        verify_in_fresh_process(copy)

    log = Path(copy.log).read_text(encoding="utf-8")
    assert "cannot be read" in log
    assert str(tmp_path) not in log
