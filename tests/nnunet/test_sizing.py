"""Plans that fit the time, made by nnU-Net's planners and timed on this machine."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_model import DESCRIPTION, write_raw_dataset
from tiny_training import make_setup

from nnunet_medseg.budget.fit import steps_that_fit
from nnunet_medseg.budget.size import NNUNET_SIZE, SLICE_STEPS, ObjectSizes, PlanSize, PlanWish
from nnunet_medseg.errors import UsageError
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.nnunet import sizing
from nnunet_medseg.nnunet.inference import Model, Segmenter
from nnunet_medseg.nnunet.planning import (
    extract_fingerprint,
    make_plans,
    read_object_sizes_mm3,
)
from nnunet_medseg.nnunet.plans import check_plans
from nnunet_medseg.nnunet.probe import count_flops, measure_step
from nnunet_medseg.nnunet.sizing import (
    PlanTask,
    _make_candidates,
    _voxel_mm3,
    plan_for_time,
)
from nnunet_medseg.nnunet.trainer import MIN_SUPERVISED_STAGES, make_trainer
from nnunet_medseg.phantom import PhantomSpec
from nnunet_medseg.run_folder import DATASET_NAME

SPEC = PhantomSpec((24, 32, 32), (2.0, 1.5, 1.5))
LARGE_OBJECTS = ObjectSizes(100_000.0, 100_000.0)
SMALL_OBJECTS = ObjectSizes(1000.0, 1000.0)


@pytest.fixture
def measured(tmp_path, monkeypatch, request) -> Path:
    """Return the preprocessed folder of a raw dataset with its fingerprint.

    A test that is parametrized indirectly gets phantoms of its own.
    """
    spec = getattr(request, "param", SPEC)
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.setattr("nnunet_medseg.nnunet.planning.INTENSITY_SAMPLES", 1000)
    folder = tmp_path / "preprocessed" / DATASET_NAME
    cases = write_raw_dataset(tmp_path / "raw", [spec, spec])
    extract_fingerprint(cases, folder, workers=1, log=tmp_path / "log.txt")
    return folder


def pretend(monkeypatch: pytest.MonkeyPatch, gigaflops: float) -> list[float]:
    """Let a machine of that speed measure; return the list that its measurements go to."""
    measured: list[float] = []
    # Measuring has one end, whatever is measured.
    deadlines: set[float] = set()

    def measure(plans, configuration, description, setup, until_s):
        deadlines.add(until_s)
        assert len(deadlines) == 1
        measured.append(3 * count_flops(plans, configuration, description) / gigaflops / 1e9)
        return measured[-1]

    monkeypatch.setattr(sizing, "measure_step", measure)
    return measured


def plan_on(folder: Path, minutes: float, objects_mm3: ObjectSizes | None = SMALL_OBJECTS):
    setup = make_setup(folder, asked_s=60 * minutes)
    return plan_for_time(PlanTask(DATASET_NAME, DESCRIPTION, setup, objects_mm3))


def test_the_sizes_of_labelled_objects_are_measured_with_the_fingerprint(measured):
    sizes_mm3 = read_object_sizes_mm3(measured)

    assert 30 * math.prod(SPEC.spacing_mm) <= sizes_mm3.smallest < sizes_mm3.largest
    assert sizes_mm3.largest < math.prod(SPEC.shape) * 4.5


def test_a_fast_machine_gets_nnunets_own_plan(measured, monkeypatch, tmp_path):
    pretend(monkeypatch, gigaflops=5000)

    sized = plan_on(tmp_path, minutes=5)

    assert sized.choice.candidate.size == NNUNET_SIZE
    assert "of nnU-Net's own plan fit" in sized.choice.reason


def test_a_slow_machine_gets_a_smaller_plan_and_is_told_what_nnunets_would_do(
    measured, monkeypatch, tmp_path
):
    pretend(monkeypatch, gigaflops=20)

    sized = plan_on(tmp_path, minutes=5)

    chosen = sized.choice.candidate
    assert chosen.size.patch_voxels is not None
    assert sized.choice.steps >= chosen.steps_needed
    assert "steps of nnU-Net's own plan would fit into 5 min" in sized.choice.reason


@pytest.mark.parametrize("factor", [0.5, 1.1], ids=["faster", "than on a better day before"])
def test_fewer_threads_are_chosen_where_they_are_faster_and_that_is_said(
    measured, monkeypatch, tmp_path, factor
):
    pretend(monkeypatch, gigaflops=20)
    monkeypatch.setattr(sizing, "fastest_threads", lambda *given: (4, given[4] * factor))

    sized = plan_on(tmp_path, minutes=5)

    assert sized.threads == 4
    assert sized.choice.steps == steps_that_fit(300, sized.choice.step_s)
    assert f"4 threads are faster than one on each core: {sized.choice.steps} do" in (
        sized.choice.reason
    )


def test_a_very_long_training_gets_a_residual_encoder(measured, monkeypatch, tmp_path):
    pretend(monkeypatch, gigaflops=50_000)

    sized = plan_on(tmp_path, minutes=60 * 24)

    network = sized.plans["configurations"][sized.configuration]["architecture"]
    assert network["network_class_name"].endswith("ResidualEncoderUNet")


def test_the_default_plan_is_nnunets_own_however_slow_the_machine(measured, monkeypatch, tmp_path):
    pretend(monkeypatch, gigaflops=0.1)

    sized = plan_on(tmp_path, minutes=1, objects_mm3=None)

    assert sized.plans == make_plans(DATASET_NAME)[0]


@pytest.mark.parametrize(
    "size",
    [
        NNUNET_SIZE,
        PlanSize(width=0.5, patch_voxels=4096),
        PlanSize(voxel_factor=4, width=0.5, patch_voxels=4096),
        PlanSize(network="resenc_m"),
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


@pytest.mark.parametrize(
    "measured",
    [
        PhantomSpec((2, 64, 64), (5.0, 1.5, 1.5)),
        PhantomSpec((3, 48, 48), (1.5, 1.5, 1.5)),
        PhantomSpec((16, 16, 16), (2.0, 2.0, 2.0)),
    ],
    ids=["two thick slices", "a thin slab", "16 voxels"],
    indirect=True,
)
def test_no_plan_is_smaller_than_nnunets_loss_can_train(measured):
    task = PlanTask(DATASET_NAME, DESCRIPTION, make_setup(measured), LARGE_OBJECTS)

    made = _make_candidates(task)

    assert NNUNET_SIZE in {candidate.size for candidate in made}
    for plans, configuration in made.values():
        chosen = plans["configurations"][configuration]
        assert min(chosen["patch_size"]) >= 1
        is_deep = chosen["architecture"]["arch_kwargs"]["n_stages"] >= MIN_SUPERVISED_STAGES
        assert is_deep or math.isfinite(loss_of(plans, configuration, task.setup))


def loss_of(plans, configuration, setup) -> float:
    """Return the loss of one training step on noise."""
    trainer = make_trainer(plans, configuration, DESCRIPTION, setup)
    trainer.clock.start()
    trainer.prepare_network()
    return float(trainer.train_step(trainer.random_batch())["loss"])


def shrink(folder: Path, side: int) -> None:
    """Let the images that were measured have so many voxels along each axis."""
    path = folder / "dataset_fingerprint.json"
    fingerprint = read_json(path)
    fingerprint["shapes_after_crop"] = [[side] * 3 for _ in fingerprint["shapes_after_crop"]]
    fingerprint["spacings"] = [[2.0] * 3 for _ in fingerprint["spacings"]]
    write_json(path, fingerprint)


@pytest.mark.parametrize(
    ("side", "wish"),
    [
        (12, {}),
        (12, {"network": "small"}),
        (12, {"network": "resenc_m"}),
        (24, {"spacing_mm": (4.0, 4.0, 4.0)}),
    ],
    ids=["small images", "small network", "residual encoder", "coarse spacing"],
)
def test_small_images_are_trained_with_a_network_of_two_stages(measured, side, wish):
    shrink(measured, side)
    setup = make_setup(measured)
    task = PlanTask(DATASET_NAME, DESCRIPTION, setup, LARGE_OBJECTS, PlanWish(**wish))

    ((plans, configuration),) = _make_candidates(task).values()

    network = plans["configurations"][configuration]["architecture"]["arch_kwargs"]
    assert network["n_stages"] == 2
    assert math.isfinite(loss_of(plans, configuration, setup))


@pytest.mark.parametrize(
    ("side", "wish"),
    [(24, {"spacing_mm": (8.0, 8.0, 8.0)}), (6, {})],
    ids=["coarse spacing", "small images"],
)
@pytest.mark.parametrize("is_free", [True, False])
def test_images_too_small_for_any_network_are_refused(measured, side, wish, is_free):
    shrink(measured, side)

    with pytest.raises(UsageError, match=r"spacing of \d x \d x \d mm .* 6 x 6 x 6") as refused:
        candidates_for(measured, is_free=is_free, **wish)

    assert "--spacing" in refused.value.fix


@pytest.mark.parametrize("measured", [PhantomSpec((1, 48, 48), (8.0, 1.0, 1.0))], indirect=True)
def test_objects_in_single_slices_are_counted_in_voxels_as_thick_as_the_slice(measured):
    plans, configuration = make_plans(DATASET_NAME)

    assert configuration == "2d"
    assert _voxel_mm3(plans, configuration) == pytest.approx(8.0)


def test_a_plan_that_does_not_fit_the_memory_is_not_tried(measured, monkeypatch, tmp_path):
    monkeypatch.setattr("nnunet_medseg.nnunet.probe.free_memory_bytes", lambda: 1000)
    plans, configuration = make_plans(DATASET_NAME)

    step_s = measure_step(plans, configuration, DESCRIPTION, make_setup(tmp_path), math.inf)

    assert step_s == math.inf


# --- what the user asks ------------------------------------------------------------------------


def candidates_for(folder: Path, *, is_free: bool = True, **wish) -> list[dict]:
    """Return the configurations that could be trained, from large to small."""
    objects_mm3 = LARGE_OBJECTS if is_free else None
    made = _make_candidates(
        PlanTask(DATASET_NAME, DESCRIPTION, make_setup(folder), objects_mm3, PlanWish(**wish))
    )
    return [plans["configurations"][name] for plans, name in made.values()]


def values_of(configurations: list[dict], key: str) -> set[tuple]:
    return {tuple(configuration[key]) for configuration in configurations}


def test_a_patch_that_is_asked_for_is_that_of_every_candidate(measured):
    candidates = candidates_for(measured, patch=(16, 16, 16))

    assert values_of(candidates, "patch_size") == {(16, 16, 16)}
    assert len(values_of(candidates, "spacing")) > 1


def test_a_spacing_that_is_asked_for_is_that_of_every_candidate(measured):
    candidates = candidates_for(measured, spacing_mm=(2.5, 1.5, 2.0))

    assert values_of(candidates, "spacing") == {(2.5, 1.5, 2.0)}
    assert len(values_of(candidates, "patch_size")) > 1


def test_a_network_that_is_asked_for_is_that_of_every_candidate(measured):
    candidates = candidates_for(measured, network="resenc_l")

    kinds = {each["architecture"]["network_class_name"].split(".")[-1] for each in candidates}
    assert kinds == {"ResidualEncoderUNet"}
    assert len(values_of(candidates, "patch_size")) > 1


@pytest.mark.parametrize("batch", [1, 16])
def test_a_batch_that_is_asked_for_leaves_the_patches_as_they_are(measured, batch):
    own = candidates_for(measured)

    candidates = candidates_for(measured, batch=batch)

    assert {each["batch_size"] for each in candidates} == {batch}
    assert values_of(candidates, "patch_size") == values_of(own, "patch_size")


def test_smaller_patches_come_in_batches_as_large_as_what_nnunet_plans(measured):
    (own,) = candidates_for(measured, is_free=False)
    room = math.prod(own["patch_size"]) * own["batch_size"]

    (chosen,) = candidates_for(measured, is_free=False, patch=(8, 16, 16))

    assert chosen["batch_size"] == room // (8 * 16 * 16) > own["batch_size"]


def test_a_batch_that_is_asked_for_goes_before_what_fits(measured):
    (chosen,) = candidates_for(measured, is_free=False, patch=(8, 16, 16), batch=3)

    assert chosen["batch_size"] == 3


@pytest.mark.parametrize("is_free", [True, False])
def test_a_patch_that_is_too_small_for_three_stages_is_refused(measured, is_free):
    with pytest.raises(UsageError, match="too small for a network of three stages"):
        candidates_for(measured, is_free=is_free, patch=(8, 8, 8))


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"patch": (16, 16)}, "2 sides, and the configuration has 3"),
        ({"patch": (16, 16, 16), "configuration": "2d"}, "3 sides, and the configuration has 2"),
    ],
)
def test_a_patch_with_other_sides_than_the_configuration_is_refused(measured, wish, words):
    with pytest.raises(UsageError, match=words):
        candidates_for(measured, **wish)


@pytest.mark.parametrize("measured", [PhantomSpec((1, 96, 96), (8.0, 1.0, 1.0))], indirect=True)
@pytest.mark.parametrize("network", ["default", "small"])
def test_the_whole_patch_of_slices_needs_few_steps_whatever_network_is_asked_for(measured, network):
    setup, wish = make_setup(measured), PlanWish(network=network)

    made = _make_candidates(PlanTask(DATASET_NAME, DESCRIPTION, setup, ObjectSizes(1.0, 1.0), wish))

    first = next(iter(made))
    assert first.size.patch_voxels is None
    assert first.steps_needed == SLICE_STEPS


def test_slices_of_volumes_can_be_trained_on(measured):
    candidates = candidates_for(measured, configuration="2d", patch=(32, 16))

    assert values_of(candidates, "patch_size") == {(32, 16)}
    assert {len(each["spacing"]) for each in candidates} == {2}


def test_what_was_measured_once_is_not_measured_again(measured, monkeypatch, tmp_path):
    measurements = pretend(monkeypatch, gigaflops=20)
    task = PlanTask(DATASET_NAME, DESCRIPTION, make_setup(tmp_path, asked_s=300), SMALL_OBJECTS)
    first = plan_for_time(task)
    count = len(measurements)
    shown = []

    second = plan_for_time(task, lambda name, step_s: shown.append((name, step_s)))

    assert count == len(measurements) == len(task.known) > 0
    assert (second.plans, second.choice.reason) == (first.plans, first.choice.reason)
    assert dict(shown).items() >= first.choice.measured.items()


def plan_in_layouts(monkeypatch, folder, gain):
    """Return the task and its plan, where channels last is `gain(operations)` times as fast."""
    pretend(monkeypatch, gigaflops=20)
    slow = sizing.measure_step

    def measure(plans, configuration, description, setup, until_s):
        step_s = slow(plans, configuration, description, setup, until_s)
        flops = count_flops(plans, configuration, description)
        return step_s / gain(flops) if setup.channels_last else step_s

    monkeypatch.setattr(sizing, "measure_step", measure)
    setup = make_setup(folder, asked_s=300)
    task = PlanTask(DATASET_NAME, DESCRIPTION, setup, SMALL_OBJECTS)
    return task, plan_for_time(task)


LAST = ", channels last"


def test_the_layout_is_found_out_with_the_cheapest_plan_and_again_with_the_chosen_one(
    measured, monkeypatch, tmp_path
):
    task, sized = plan_in_layouts(monkeypatch, tmp_path, lambda _flops: 2)

    first = {name for name in task.known if not name.endswith(LAST)}
    assert sized.channels_last
    assert len(first) == 2
    assert sized.choice.candidate.name in first
    assert len(task.known) > 4
    assert all(task.known[name + LAST] == task.known[name] / 2 for name in first)
    assert "channels" not in sized.choice.reason


def test_a_chosen_plan_has_the_layout_that_is_faster_for_itself(measured, monkeypatch, tmp_path):
    _, small = plan_in_layouts(monkeypatch, tmp_path, lambda _flops: 0.5)
    threshold = small.choice.candidate.flops / 2
    task, sized = plan_in_layouts(
        monkeypatch, tmp_path, lambda flops: 1.25 if flops > threshold else 0.5
    )

    name = sized.choice.candidate.name
    assert (sized.channels_last, small.channels_last) == (True, False)
    assert name == small.choice.candidate.name
    assert sized.choice.step_s == task.known[name + LAST] == task.known[name] / 1.25
    steps = steps_that_fit(300, sized.choice.step_s)
    assert sized.choice.steps == steps > small.choice.steps
    assert sized.choice.reason == (f"{small.choice.reason}; channels last is faster: {steps} do")
