"""Fingerprint, plans and preprocessed cases, beside those of stock nnU-Net."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
    DatasetFingerprintExtractor,
)
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_model import write_raw_dataset

from nnunet_medseg.files import read_json, write_json
from nnunet_medseg.nnunet import planning
from nnunet_medseg.nnunet.cases import PreprocessedCases
from nnunet_medseg.nnunet.planning import (
    RawFiles,
    configuration_of,
    extract_fingerprint,
    make_plans,
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
        plans, name = configuration_of(self.folder)
        return self.folder / plans["configurations"][name]["data_identifier"]

    def preprocess(self) -> None:
        preprocess(self.cases, self.folder, workers=1, log=self.folder / "log.txt")


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

    preprocess(planned.cases, folder, workers=2, log=folder / "log.txt")

    assert_same_voxels(planned, alone)
