"""Fingerprint, plans and preprocessed cases, beside those of stock nnU-Net."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_model import write_raw_dataset

from nnunet_medseg.budget.size import NNUNET_SIZE, PlanWish, restrict
from nnunet_medseg.errors import UsageError
from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.nnunet import planning
from nnunet_medseg.nnunet.cases import PreprocessedCases
from nnunet_medseg.nnunet.planning import (
    Preparation,
    RawFiles,
    configuration_of,
    extract_fingerprint,
    make_plans,
    preparation_key,
    preprocess,
    write_plans,
)
from nnunet_medseg.nnunet.plans import check_plans
from nnunet_medseg.phantom import PhantomSpec
from nnunet_medseg.run_folder import DATASET_NAME

USUAL = PhantomSpec(shape=(16, 20, 24))
# Another spacing, so that cases have to be resampled.
COARSE = PhantomSpec(shape=(16, 16, 16), spacing_mm=(4.0, 2.0, 2.0))
SLICE = PhantomSpec(shape=(1, 32, 32))


@dataclass(frozen=True)
class Planned:
    """A raw dataset that was measured and planned."""

    cases: list[RawFiles]
    folder: Path
    configuration: str

    @property
    def target(self) -> Path:
        return self.folder / "prepared"

    def preprocess(self, *, workers: int = 1) -> None:
        plans, name = configuration_of(self.folder)
        description = read_json(self.folder.parents[1] / "raw" / DATASET_NAME / "dataset.json")
        preparation = Preparation(plans, name, description, self.target)
        preprocess(self.cases, preparation, workers=workers, log=self.folder / "log.txt")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the preprocessed folder of the dataset that nnU-Net finds in its environment."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    return tmp_path / "preprocessed" / DATASET_NAME


@pytest.fixture
def few_samples(monkeypatch):
    """Draw fewer intensities than in earnest, where they do not matter."""
    monkeypatch.setattr(planning, "INTENSITY_SAMPLES", 1000)


def make_measured(folder: Path, *specs: PhantomSpec) -> list[RawFiles]:
    """Make a raw dataset of phantoms with its fingerprint."""
    cases = write_raw_dataset(folder.parents[1] / "raw", specs)
    extract_fingerprint(cases, folder, workers=1, log=folder.parent / "log.txt")
    return cases


def plan(folder: Path) -> str:
    """Write nnU-Net's own plans and return the configuration."""
    plans, configuration = make_plans(DATASET_NAME)
    write_plans(folder, plans)
    return configuration


def make_planned(folder: Path, *specs: PhantomSpec) -> Planned:
    """Make a measured dataset with plans."""
    return Planned(make_measured(folder, *specs), folder, plan(folder))


def plan_for(folder: Path, fingerprint: dict) -> str:
    """Plan for a dataset of which only the fingerprint counts."""
    write_raw_dataset(folder.parents[1] / "raw", [SLICE])
    folder.mkdir(parents=True)
    write_json(folder / "dataset_fingerprint.json", fingerprint)
    return plan(folder)


def voxels_of(planned: Planned) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return data and labels of each preprocessed case."""
    cases = PreprocessedCases(str(planned.target))
    read = {name: cases.load_case(name) for name in cases.identifiers}
    return {name: (data[:], seg[:]) for name, (data, seg, *_) in read.items()}


def assert_same_voxels(first: Planned, expected: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    found = voxels_of(first)
    assert found.keys() == expected.keys()
    for name, arrays in expected.items():
        np.testing.assert_array_equal(found[name][0], arrays[0])
        np.testing.assert_array_equal(found[name][1], arrays[1])


def fingerprint_of(shape: tuple[int, ...], spacings: list[tuple[float, ...]]) -> dict:
    """Return the fingerprint of cases of one shape."""
    intensities = dict.fromkeys(("mean", "median", "std", "min", "max"), 1.0)
    intensities |= {"percentile_99_5": 1.0, "percentile_00_5": 0.0}
    return {
        "spacings": spacings,
        "shapes_after_crop": [shape] * len(spacings),
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "median_relative_size_after_cropping": 1.0,
    }


# --- fingerprint -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_fingerprint_is_that_of_stock_nnunet(folder):
    make_measured(folder, USUAL, COARSE)
    ours = read_json(folder / "dataset_fingerprint.json")

    stock = DatasetFingerprintExtractor(DATASET_NAME, 1).run(overwrite_existing=True)

    np.testing.assert_array_equal(ours["spacings"], stock["spacings"])
    np.testing.assert_array_equal(ours["shapes_after_crop"], stock["shapes_after_crop"])
    key = "median_relative_size_after_cropping"
    assert ours[key] == pytest.approx(stock[key])
    ours_ct = ours["foreground_intensity_properties_per_channel"]["0"]
    stock_ct = stock["foreground_intensity_properties_per_channel"][0]
    assert ours_ct.keys() == stock_ct.keys()
    for name, value in stock_ct.items():
        assert ours_ct[name] == pytest.approx(value, rel=0.01, abs=0.5)


@pytest.mark.usefixtures("few_samples")
def test_the_fingerprint_counts_the_cases_that_are_done(folder):
    cases = make_measured(folder, USUAL, COARSE)
    counted = []

    extract_fingerprint(cases, folder, workers=1, log=folder / "log.txt", on_case=counted.append)

    assert counted == [1, 2]


# --- plans -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_samples")
def test_the_plans_have_the_one_configuration_and_the_reader_that_reorients(folder):
    planned = make_planned(folder, USUAL, COARSE)

    plans, name = configuration_of(folder)

    assert planned.configuration == name == "3d_fullres"
    assert list(plans["configurations"]) == ["3d_fullres"]
    assert plans["image_reader_writer"] == "SimpleITKIOWithReorient"
    check_plans(plans, name)


@pytest.mark.parametrize(
    ("size", "is_over_batch"), [(64, False), (400, True)], ids=["most", "little"]
)
def test_dice_is_computed_over_the_batch_when_a_patch_covers_little_of_the_image(
    folder, size, is_over_batch
):
    fingerprint = fingerprint_of((size, size, size), [(1.0, 1.0, 1.0)])

    configuration = plan_for(folder, fingerprint)

    plans, _ = configuration_of(folder)
    assert list(plans["configurations"]) == [configuration] == ["3d_fullres"]
    assert plans["configurations"]["3d_fullres"]["batch_dice"] is is_over_batch


@pytest.mark.parametrize("coarse_axis", [0, 1, 2])
def test_the_axis_of_the_largest_spacing_comes_first(folder, coarse_axis):
    spacing = tuple(5.0 if axis == coarse_axis else 1.0 for axis in range(3))

    plan_for(folder, fingerprint_of((32, 32, 32), [spacing]))

    plans, _ = configuration_of(folder)
    assert plans["transpose_forward"][0] == coarse_axis
    check_plans(plans, "3d_fullres")


@pytest.mark.parametrize("thin_axis", [0, 1, 2])
@pytest.mark.parametrize(
    "slice_mm",
    [[5.0, 5.0, 5.0], [0.1, 0.1, 0.1], [1.0, 1.0, 1.0], [5.0, 10.0, 10.0], [1.0, 1.0, 20.0, 20.0]],
    ids=str,
)
def test_single_slices_are_trained_in_2d_whatever_their_axis_and_spacing(
    folder, thin_axis, slice_mm
):
    shape = tuple(1 if axis == thin_axis else 64 for axis in range(3))
    spacings = [tuple(mm if axis == thin_axis else 1.0 for axis in range(3)) for mm in slice_mm]

    configuration = plan_for(folder, fingerprint_of(shape, spacings))

    plans, _ = configuration_of(folder)
    assert configuration == "2d"
    assert plans["transpose_forward"][0] == thin_axis
    assert plans["configurations"]["2d"]["spacing"] == [1.0, 1.0]
    check_plans(plans, "2d")


# --- what the user asks of a plan --------------------------------------------------------------

SMALL_PATCH = (32, 64, 64)


def volumes(coarse_axis: int = 0, *, size: int = 160) -> dict:
    """Return the fingerprint of volumes whose slices, along one axis, are thick."""
    shape = tuple(size // 3 if axis == coarse_axis else size for axis in range(3))
    spacing = tuple(3.0 if axis == coarse_axis else 1.0 for axis in range(3))
    return fingerprint_of(shape, [spacing] * 2)


def slices() -> dict:
    return fingerprint_of((1, 64, 64), [(5.0, 1.0, 1.0)] * 2)


@pytest.fixture
def measure(folder, monkeypatch) -> Callable[[dict], None]:
    """Return what makes a dataset of which only the fingerprint counts.

    nnU-Net builds networks to tell the memory that a patch takes; here voxels tell it.
    """
    memory = staticmethod(lambda patch, *_: 270 * math.prod(int(side) for side in patch))
    monkeypatch.setattr(ExperimentPlanner, "static_estimate_VRAM_usage", memory)
    write_raw_dataset(folder.parents[1] / "raw", [SLICE])
    folder.mkdir(parents=True)
    return partial(write_json, folder / "dataset_fingerprint.json")


def plan_as_wished(**wish) -> tuple[dict, dict]:
    """Return plans, which are checked, and their one configuration."""
    asked = PlanWish(**wish)
    ((size, _),) = restrict([(NNUNET_SIZE, 0)], asked)
    plans, name = make_plans(DATASET_NAME, size, asked)
    check_plans(plans, name)
    assert list(plans["configurations"]) == [name]
    return plans, plans["configurations"][name]


def differing(first: dict, second: dict) -> set[str]:
    return {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}


@pytest.mark.parametrize("name", ["2d", "3d_fullres", "3d_lowres"])
def test_a_configuration_that_is_asked_for_is_the_one_that_stock_nnunet_plans(measure, name):
    measure(volumes(size=400))
    stock = ExperimentPlanner(DATASET_NAME).plan_experiment()

    plans, chosen = plan_as_wished(configuration=name)

    own = stock["configurations"][name]
    own.pop("next_stage", None)
    assert differing(plans, stock) == {"configurations"}
    assert differing(chosen, own) == set()


def test_low_resolution_is_refused_where_a_patch_covers_the_image(measure):
    measure(volumes(size=64))

    with pytest.raises(UsageError, match="--configuration 3d_lowres") as caught:
        plan_as_wished(configuration="3d_lowres")

    assert "3d_fullres" in caught.value.fix


def test_low_resolution_that_was_planned_for_another_patch_is_not_taken(measure):
    measure(volumes(size=64))
    plan_as_wished(configuration="3d_lowres", patch=(8, 16, 16))

    with pytest.raises(UsageError, match="--configuration 3d_lowres"):
        plan_as_wished(configuration="3d_lowres")


@pytest.mark.parametrize("name", ["3d_fullres", "3d_lowres"])
def test_volumes_are_refused_for_single_slices(measure, name):
    measure(slices())

    with pytest.raises(UsageError, match=f"--configuration {name}"):
        plan_as_wished(configuration=name)


@pytest.mark.parametrize("coarse_axis", [0, 1, 2])
@pytest.mark.parametrize("wished", [(4.0, 2.0, 1.5), (1.0, 2.0, 4.0)])
def test_a_spacing_is_taken_in_the_order_of_the_plan(measure, coarse_axis, wished):
    measure(volumes(coarse_axis))
    own_plans, own = plan_as_wished()

    plans, chosen = plan_as_wished(spacing_mm=wished)

    assert plans["transpose_forward"] == own_plans["transpose_forward"]
    assert plans["transpose_forward"][0] == coarse_axis
    assert chosen["spacing"] == list(wished)
    assert chosen["median_image_size_in_voxels"] == pytest.approx(
        [
            round(voxels * side / side_wished)
            for voxels, side, side_wished in zip((53, 160, 160), (3, 1, 1), wished, strict=True)
        ]
    )
    assert differing(plans, own_plans) == {"configurations"}
    assert differing(chosen, own) <= {
        *("spacing", "median_image_size_in_voxels", "patch_size", "batch_size"),
        *("architecture", "batch_dice"),
    }


def test_in_2d_only_the_sides_within_a_slice_are_taken(measure):
    measure(volumes())

    _, chosen = plan_as_wished(configuration="2d", spacing_mm=(9.0, 2.0, 1.5))

    assert chosen["spacing"] == [2.0, 1.5]


@pytest.mark.parametrize("thickness", [0.5, 1.0, 5.0, 9.0])
def test_single_slices_stay_single_whatever_spacing_is_asked_for(measure, thickness):
    measure(slices())

    _, chosen = plan_as_wished(spacing_mm=(thickness, 2.0, 2.0))

    assert chosen["spacing"] == [2.0, 2.0]
    assert chosen["median_image_size_in_voxels"] == [32, 32]


@pytest.mark.parametrize(
    ("configuration", "wished"),
    [
        ("3d_fullres", (32, 64, 64)),
        ("3d_fullres", (30, 70, 90)),
        ("3d_fullres", (9, 33, 120)),
        ("3d_lowres", (20, 40, 40)),
        ("2d", (100, 50)),
    ],
)
def test_a_patch_is_rounded_up_to_what_the_network_can_divide(measure, configuration, wished):
    measure(volumes(size=240))
    _, own = plan_as_wished(configuration=configuration, patch=tuple(2 * side for side in wished))

    _, chosen = plan_as_wished(configuration=configuration, patch=wished)

    strides = np.prod(chosen["architecture"]["arch_kwargs"]["strides"], axis=0)
    for side, side_wished, stride in zip(chosen["patch_size"], wished, strides, strict=True):
        assert side_wished <= side < side_wished + stride
        assert side % stride == 0
    differs = {"patch_size", "batch_size", "architecture", "batch_dice"}
    if configuration == "3d_lowres":
        differs |= {"spacing", "median_image_size_in_voxels"}
    assert differing(chosen, own) <= differs


def test_a_patch_may_be_larger_than_the_images(measure):
    measure(volumes(size=64))

    _, chosen = plan_as_wished(patch=(64, 128, 128))

    assert list(chosen["patch_size"]) == [64, 128, 128]
    assert chosen["median_image_size_in_voxels"] == [21, 64, 64]


@pytest.mark.parametrize("wished", [(200, 64, 64), (32, 512, 64), (1024, 1024, 1024)])
def test_a_patch_that_nnunet_would_cut_is_refused(measure, wished):
    measure(volumes())

    with pytest.raises(UsageError, match="--patch_size"):
        plan_as_wished(patch=wished)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("batch", [1, 7, 512])
def test_a_batch_that_is_asked_for_changes_nothing_else(measure, configuration, batch):
    measure(volumes())
    own_plans, own = plan_as_wished(configuration=configuration)

    plans, chosen = plan_as_wished(configuration=configuration, batch=batch)

    assert chosen["batch_size"] == batch
    assert differing(plans, own_plans) == {"configurations"}
    assert differing(chosen, own) == {"batch_size"}


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_small_network_has_half_of_the_features_and_is_the_same_otherwise(
    measure, configuration
):
    measure(volumes())
    rest = {"configuration": configuration, "patch": SMALL_PATCH[-int(configuration[0]) :]}
    _, own = plan_as_wished(**rest, batch=2, network="default")

    _, chosen = plan_as_wished(**rest, batch=2, network="small")

    ours, stock = (each["architecture"].pop("arch_kwargs") for each in (chosen, own))
    halves = [features // 2 for features in stock.pop("features_per_stage")]
    assert list(ours.pop("features_per_stage")) == halves
    assert ours == stock
    assert differing(chosen, own) == set()


@pytest.mark.parametrize(
    ("network", "blocks"),
    [("resenc_m", [1, 3, 4]), ("resenc_l", [1, 3, 4]), ("resenc_xl", [1, 3, 4])],
)
def test_a_residual_preset_changes_the_network_only(measure, network, blocks):
    measure(volumes())
    _, own = plan_as_wished(patch=SMALL_PATCH, batch=2)

    _, chosen = plan_as_wished(patch=SMALL_PATCH, batch=2, network=network)

    architecture = chosen["architecture"]
    assert architecture["network_class_name"].endswith("ResidualEncoderUNet")
    assert list(architecture["arch_kwargs"]["n_blocks_per_stage"][:3]) == blocks
    assert differing(chosen, own) == {"architecture"}


def test_the_network_of_stock_nnunet_is_the_default(measure):
    measure(volumes())

    assert plan_as_wished(network="default") == plan_as_wished()


def test_wishes_go_together(measure):
    measure(volumes(2))

    plans, chosen = plan_as_wished(
        configuration="3d_fullres",
        network="resenc_m",
        spacing_mm=(4.0, 2.0, 1.0),
        patch=(16, 48, 80),
        batch=3,
    )

    assert plans["transpose_forward"] == [2, 0, 1]
    assert chosen["spacing"] == [4.0, 2.0, 1.0]
    assert list(chosen["patch_size"]) == [16, 48, 80]
    assert chosen["batch_size"] == 3


# --- what preprocessed cases are called by -----------------------------------------------------


def key_of(plans: dict, chosen: dict, content: str = "content") -> str:
    assert chosen in plans["configurations"].values()
    (name,) = plans["configurations"]
    # As they come back from the file of the training.
    return preparation_key(json.loads(json.dumps(plans)), name, content)


@pytest.mark.parametrize(
    "wish",
    [
        {"patch": (16, 32, 32)},
        {"batch": 9},
        {"network": "small"},
        {"network": "resenc_l"},
        {"configuration": "3d_fullres", "patch": (32, 64, 64), "batch": 1, "network": "resenc_m"},
    ],
    ids=str,
)
def test_cases_are_prepared_once_for_any_patch_batch_and_network(measure, wish):
    measure(volumes())

    assert key_of(*plan_as_wished(**wish)) == key_of(*plan_as_wished())


@pytest.mark.parametrize(
    "wish",
    [
        {"spacing_mm": (3.0, 1.0, 1.1)},
        {"configuration": "2d"},
        {"configuration": "3d_lowres", "patch": (16, 32, 32)},
    ],
    ids=str,
)
def test_another_spacing_is_another_preparation(measure, wish):
    measure(volumes())

    assert key_of(*plan_as_wished(**wish)) != key_of(*plan_as_wished())


def test_plans_in_memory_and_from_a_file_have_the_same_key(measure, folder):
    measure(volumes())
    plans, chosen = plan_as_wished(patch=SMALL_PATCH)

    write_plans(folder, plans)

    assert preparation_key(*configuration_of(folder), "content") == key_of(plans, chosen)


def test_other_content_is_another_preparation(measure):
    measure(volumes())
    plans, chosen = plan_as_wished()

    assert key_of(plans, chosen, "content") != key_of(plans, chosen, "other content")


@pytest.mark.parametrize(
    ("scheme", "matters"), [("CTNormalization", True), ("ZScoreNormalization", False)]
)
def test_statistics_matter_where_they_normalise(measure, scheme, matters):
    measure(volumes())
    plans, chosen = plan_as_wished()
    chosen["normalization_schemes"] = [scheme]
    before = key_of(plans, chosen)

    plans["foreground_intensity_properties_per_channel"]["0"]["mean"] = 77.0

    assert (key_of(plans, chosen) != before) is matters


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("normalization_schemes", ["ZScoreNormalization"]),
        ("use_mask_for_norm", [True]),
        ("resampling_fn_data_kwargs", {"is_seg": False, "order": 1}),
        ("resampling_fn_seg_kwargs", {"is_seg": True, "order": 0}),
    ],
)
def test_another_normalisation_or_resampling_is_another_preparation(measure, key, value):
    measure(volumes())
    plans, chosen = plan_as_wished()
    before = key_of(plans, chosen)

    chosen[key] = value

    assert key_of(plans, chosen) != before


@pytest.mark.parametrize(
    ("key", "value"),
    [("transpose_forward", [1, 0, 2]), ("image_reader_writer", "SimpleITKIO")],
)
def test_another_order_of_axes_or_reader_is_another_preparation(measure, key, value):
    measure(volumes())
    plans, chosen = plan_as_wished()
    before = key_of(plans, chosen)

    plans[key] = value

    assert key_of(plans, chosen) != before


# --- preprocessed cases ------------------------------------------------------------------------


@pytest.mark.usefixtures("few_samples")
@pytest.mark.parametrize("specs", [(USUAL, COARSE), (SLICE, SLICE)], ids=["3d", "2d"])
def test_preprocessed_voxels_are_those_of_stock_nnunet(folder, tmp_path, specs):
    planned = make_planned(folder, *specs)
    plans, name = configuration_of(folder)
    manager = PlansManager(plans)
    description = read_json(folder / "dataset.json")

    planned.preprocess()

    for case in planned.cases:
        DefaultPreprocessor(verbose=False).run_case_save(
            str(tmp_path / case.name),
            list(case.images),
            case.label,
            manager,
            manager.get_configuration(name),
            description,
        )
        data, seg, _, properties = PreprocessedCases(str(planned.target)).load_case(case.name)
        expected, expected_seg, _, expected_properties = nnUNetDatasetBlosc2(
            str(tmp_path), [case.name]
        ).load_case(case.name)
        for found, stock in ((data, expected), (seg, expected_seg)):
            np.testing.assert_array_equal(found[:], stock[:])
            assert found.dtype == stock.dtype
        places = properties["class_locations"]
        stock_places = expected_properties["class_locations"]
        assert set(places) == {label for label, rows in stock_places.items() if len(rows)}
        for label, rows in places.items():
            np.testing.assert_array_equal(rows, stock_places[label])


@pytest.mark.usefixtures("few_samples")
def test_preprocessing_leaves_voxels_and_places_and_no_pickle(folder):
    planned = make_planned(folder, USUAL)

    planned.preprocess()

    assert sorted(path.name for path in planned.target.iterdir()) == [
        "phantom_001.b2nd",
        "phantom_001_locations.npy",
        "phantom_001_seg.b2nd",
    ]


@pytest.mark.usefixtures("few_samples")
def test_a_case_that_a_kill_left_half_written_is_done_again_and_others_are_kept(folder):
    planned = make_planned(folder, USUAL, COARSE)
    planned.preprocess()
    whole = voxels_of(planned)
    first, second = (planned.target / f"{case.name}.b2nd" for case in planned.cases)
    kept = first.stat()
    second.write_bytes(second.read_bytes()[:1000])
    Path(f"{second.with_suffix('')}_seg.b2nd").unlink()
    Path(f"{second.with_suffix('')}_locations.npy").unlink()
    second.with_suffix(".pkl").touch()

    planned.preprocess()

    assert_same_voxels(planned, whole)
    assert first.stat() == kept
    assert not list(planned.target.glob("*.pkl"))


@pytest.mark.usefixtures("few_samples")
def test_several_workers_write_what_one_does(folder):
    planned = make_planned(folder, USUAL, COARSE)
    planned.preprocess()
    alone = voxels_of(planned)
    for path in planned.target.iterdir():
        path.unlink()

    planned.preprocess(workers=2)

    assert_same_voxels(planned, alone)
