"""Trainings that start from a model: of stock nnU-Net, of this program, and ones made to harm."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from desk import SPEC, Desk
from foreign_models import Program, plans_of, stock_checkpoint, write_stock_folder

import nnunet_medseg
from nnunet_medseg.errors import ModelError, UsageError
from nnunet_medseg.nnunet import probe
from nnunet_medseg.nnunet.probe import measure_step
from nnunet_medseg.phantom import PhantomSpec, write_patient_folders

DESCRIPTION = {
    "channel_names": {"0": "T1"},
    "labels": {"background": 0, "liver": 1, "kidney": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def train(root: Path, **options: object) -> dict:
    """Train for a few seconds on what is in `root / "in"`, and return the manifest."""
    chosen = {"minutes": 0.15, "image_type": "CT", **options}
    result = nnunet_medseg.train(root / "in", root / "out", root / "work", **chosen)
    return json.loads((result.folder / "model" / "manifest.json").read_text())


@pytest.mark.slow
def test_a_stock_model_is_fine_tuned_with_other_labels_and_a_second_channel(tmp_path):
    spec = PhantomSpec(shape=(16, 32, 32), modality="MRI", channels=2)
    write_patient_folders(tmp_path / "in" / "Data", spec, cases=4, validate=2)
    model = write_stock_folder(tmp_path / "stock", description=DESCRIPTION)

    manifest = train(
        tmp_path,
        pretrained=str(model),
        label="kidney=1,lesion=3",
        image_type="T1,FLAIR",
        against_scratch=True,
        minutes=0.4,  # two trainings
    )

    pretrained = manifest["pretrained"]
    assert pretrained["adapted"] > 0
    assert pretrained["initialised"] > 0
    assert pretrained["transferred"] > pretrained["adapted"] + pretrained["initialised"]
    told = " ".join(pretrained["lines"])
    assert "the head keeps background and kidney; lesion is new" in told
    assert "takes T1 from the model and FLAIR as the average of its channels" in told
    assert {item["name"] for item in manifest["compared"]} >= {"fine-tuned", "from scratch"}
    assert "after fine-tuning" in manifest["verdict"]
    summary = (tmp_path / "out" / "No_Name" / "summary.txt").read_text()
    assert all(line in summary for line in pretrained["lines"])
    plans = json.loads((tmp_path / "out" / "No_Name" / "model" / "plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [16, 16, 16]


@pytest.mark.slow
def test_a_model_goes_on_with_more_minutes_and_is_measured_before_and_after(tmp_path, monkeypatch):
    timed = []

    def measure(*given: object) -> float:
        timed.append(given[3].recipe.optimizer)
        return measure_step(*given)

    write_patient_folders(tmp_path / "in" / "Data", SPEC, cases=6, validate=2)
    train(tmp_path, minutes=0.4, label="liver=1,kidney=2", dataset_name="First")
    monkeypatch.setattr(probe, "measure_step", measure)

    manifest = train(
        tmp_path,
        label="kidney=2,liver=1",
        dataset_name="Second",
        pretrained=str(tmp_path / "out" / "First"),
    )

    assert manifest["pretrained"]["initialised"] == manifest["pretrained"]["adapted"] == 0
    recipe = manifest["training"]["recipe"]
    assert (recipe["optimizer"], recipe["warm_up_share"]) == ("muon", 0.1)
    # How many steps fit is measured with the optimizer that takes them.
    assert set(timed) == {"muon"}
    dice = {item["name"]: item["mean_dice"] for item in manifest["compared"]}
    # The few steps must not spoil what the model knew.
    assert dice["fine-tuned"] > dice["the given model"] - 0.05
    assert dice["the given model"] > 0.5


def write_evil(root: Path, kind: str) -> Path:
    """Write a model that is made to harm; what it would do is make the file `trace`."""
    trace = root / "trace"
    if kind == "pickle":
        path = root / "checkpoint_final.pth"
        torch.save({**stock_checkpoint(plans_of()), "extra": Program(trace)}, path)
        return path
    if kind in {"os.system", "builtins.eval"}:
        plans = plans_of()
        chosen = plans["configurations"]["3d_fullres"]["architecture"]
        folder = write_stock_folder(root / "model")
        chosen["network_class_name"] = kind
        chosen["arch_kwargs"] = {"command": f"touch {trace}"}
        (folder / "plans.json").write_text(json.dumps(plans))
        return folder
    path = root / "model.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if kind == "bomb":
            with archive.open("model/plans.json", "w", force_zip64=True) as entry:
                for _ in range(300):
                    entry.write(bytes(1 << 20))
        elif kind == "link":
            link = zipfile.ZipInfo("model/plans.json")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, str(trace))
        else:
            archive.writestr(kind.replace("ABSOLUTE", str(root)), "evil")
    return path


@pytest.mark.parametrize(
    "kind",
    ["pickle", "os.system", "builtins.eval", "bomb", "link", "../trace", "ABSOLUTE/trace"],
)
def test_a_model_made_to_harm_is_refused_before_the_dataset_is_read(tmp_path, kind):
    write_patient_folders(tmp_path / "in" / "Data", SPEC, cases=2)
    before = sorted(path.read_bytes() for path in (tmp_path / "in").rglob("*.nii.gz"))

    with pytest.raises(ModelError) as refused:
        train(tmp_path, pretrained=str(write_evil(tmp_path, kind)))

    assert refused.value.fix
    assert not (tmp_path / "trace").exists()
    assert sorted(path.read_bytes() for path in (tmp_path / "in").rglob("*.nii.gz")) == before
    assert list((tmp_path / "out").iterdir()) == []
    assert not list((tmp_path / "work").rglob("check.json"))


def test_a_model_of_volumes_is_refused_for_single_slices(tmp_path):
    write_patient_folders(tmp_path / "in" / "Data", PhantomSpec(shape=(1, 48, 48)), cases=2)
    model = write_stock_folder(tmp_path / "stock", description=DESCRIPTION)

    with pytest.raises(ModelError, match="single slices"):
        train(tmp_path, pretrained=str(model))


def test_a_label_that_the_model_does_not_have_cannot_be_renamed(tmp_path):
    write_patient_folders(tmp_path / "in" / "Data", SPEC, cases=2)
    model = write_stock_folder(tmp_path / "stock", description=DESCRIPTION)

    with pytest.raises(UsageError, match="spleen"):
        train(tmp_path, pretrained=str(model), label="liver=1", map_labels="spleen=liver")


def test_the_folder_beside_the_command_is_found_from_another_current_folder(desk: Desk):
    write_patient_folders(desk.input / "Data", SPEC, cases=2)
    shutil.copytree(write_stock_folder(desk.root / "stock"), desk.root / "model" / "Stock")
    (desk.root / "model" / "Stock" / "plans.json").write_text("{}")

    finished = desk.run("train", "--pretrained", "model", "-t", "0.1")

    assert finished.returncode == ModelError.exit_code
    assert "Traceback" not in finished.stderr
    assert "does not exist" not in finished.stderr
