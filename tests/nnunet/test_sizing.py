"""Plans that fit the time, made by nnU-Net's planners and timed on this machine."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_model import DESCRIPTION, write_raw_dataset
from tiny_training import make_setup

from nnunet_medseg.budget.size import NNUNET_SIZE, PlanSize
from nnunet_medseg.nnunet import sizing
from nnunet_medseg.nnunet.inference import Model, Segmenter
from nnunet_medseg.nnunet.planning import (
    extract_fingerprint,
    make_plans,
    read_smallest_object_mm3,
)
from nnunet_medseg.nnunet.plans import check_plans
from nnunet_medseg.nnunet.probe import count_flops
from nnunet_medseg.nnunet.sizing import plan_for_time
from nnunet_medseg.phantom import PhantomSpec
from nnunet_medseg.run_folder import DATASET_NAME

SPEC = PhantomSpec((24, 32, 32), (2.0, 1.5, 1.5))


@pytest.fixture
def measured(tmp_path, monkeypatch) -> Path:
    """Return the preprocessed folder of a raw dataset with its fingerprint."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setattr("nnunet_medseg.nnunet.planning.INTENSITY_SAMPLES", 1000)
    folder = tmp_path / "preprocessed" / DATASET_NAME
    cases = write_raw_dataset(tmp_path / "raw", [SPEC, SPEC])
    extract_fingerprint(cases, folder, workers=1, log=tmp_path / "log.txt")
    return folder


def pretend(monkeypatch: pytest.MonkeyPatch, gigaflops: float) -> list[float]:
    """Let a machine of that speed measure; return the list that its measurements go to."""
    measured: list[float] = []

    def measure(plans, configuration, description, setup):
        measured.append(3 * count_flops(plans, configuration, description) / gigaflops / 1e9)
        return measured[-1]

    monkeypatch.setattr(sizing, "measure_step", measure)
    return measured


def plan_on(folder: Path, minutes: float, object_mm3: float | None = 1000.0):
    setup = make_setup(folder, asked_s=60 * minutes)
    return plan_for_time(DATASET_NAME, DESCRIPTION, setup, object_mm3)


def test_the_smallest_labelled_objects_are_measured_with_the_fingerprint(measured):
    volume_mm3 = read_smallest_object_mm3(measured)

    assert 30 * math.prod(SPEC.spacing_mm) <= volume_mm3 < math.prod(SPEC.shape) * 4.5


def test_a_fast_machine_gets_nnunets_own_plan(measured, monkeypatch, tmp_path):
    pretend(monkeypatch, gigaflops=5000)

    sized = plan_on(tmp_path, minutes=5)

    assert sized.choice.candidate.size == NNUNET_SIZE
    assert "of nnU-Net's own plan fit" in sized.choice.reason


def test_a_slow_machine_gets_a_smaller_plan_and_is_told_what_nnunets_would_do(
    measured, monkeypatch, tmp_path
):
    pretend(monkeypatch, gigaflops=50)

    sized = plan_on(tmp_path, minutes=5)

    assert sized.choice.candidate.size.width == 0.5
    assert sized.choice.steps >= 500
    assert "steps of nnU-Net's own plan would fit into 5 min" in sized.choice.reason


def test_a_very_long_training_gets_a_residual_encoder(measured, monkeypatch, tmp_path):
    pretend(monkeypatch, gigaflops=50_000)

    sized = plan_on(tmp_path, minutes=60 * 24)

    network = sized.plans["configurations"][sized.configuration]["architecture"]
    assert network["network_class_name"].endswith("ResidualEncoderUNet")


def test_the_default_plan_is_nnunets_own_however_slow_the_machine(measured, monkeypatch, tmp_path):
    pretend(monkeypatch, gigaflops=0.1)

    sized = plan_on(tmp_path, minutes=1, object_mm3=None)

    assert sized.plans == make_plans(DATASET_NAME)[0]


@pytest.mark.parametrize(
    "size",
    [
        NNUNET_SIZE,
        PlanSize(width=0.5, patch_voxels=4096),
        PlanSize(voxel_factor=4, width=0.5, patch_voxels=4096),
        PlanSize(is_residual=True),
    ],
    ids=["own", "smaller patch", "larger voxels", "residual encoder"],
)
def test_a_network_of_every_size_can_be_built_by_stock_nnunet(measured, size):
    plans, configuration = make_plans(DATASET_NAME, size)
    check_plans(plans, configuration)
    skeleton = network_of(plans, configuration)

    weights = {name: torch.zeros(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    model = Model(plans, DESCRIPTION, configuration, None, (weights,))

    assert Segmenter(model, make_setup(measured).device) is not None


def network_of(plans, configuration):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    chosen = manager.get_configuration(configuration)
    heads = manager.get_label_manager(DESCRIPTION).num_segmentation_heads
    with torch.device("meta"):
        return nnUNetTrainer.build_network_architecture(
            manager, chosen, 1, heads, enable_deep_supervision=False
        )


def test_a_smaller_size_has_a_smaller_patch_and_larger_voxels(measured):
    own = make_plans(DATASET_NAME)[0]["configurations"]["3d_fullres"]

    plans, name = make_plans(DATASET_NAME, PlanSize(8, 0.5, 4096))

    small = plans["configurations"][name]
    assert math.prod(small["patch_size"]) <= 4096
    assert math.prod(small["spacing"]) == pytest.approx(8 * math.prod(own["spacing"]))
    features = small["architecture"]["arch_kwargs"]["features_per_stage"]
    assert features[0] == own["architecture"]["arch_kwargs"]["features_per_stage"][0] / 2
