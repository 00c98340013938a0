"""What every layout keeps to: one shape, no litter, no links, no guess, no traceback."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layout_makers import WRITERS, touch
from makers import hashes_of

from nnunet_medseg.dataset.case import Dataset
from nnunet_medseg.dataset.checked import Wishes, check_dataset
from nnunet_medseg.dataset.intake import find_dataset, read_dataset
from nnunet_medseg.dataset.layouts import layouts
from nnunet_medseg.errors import DatasetError
from nnunet_medseg.volume import EXTENSIONS

# DICOM files are known by what they hold, whatever they are called.
OF_NAMED_FILES = sorted(WRITERS.keys() - {"dicom", "dicom_with_label_maps"})
LITTER = ("__MACOSX/._a.nii.gz", ".DS_Store", "Thumbs.db", "desktop.ini", "._b.nii.gz")


def test_every_layout_has_the_same_shape_and_a_writer_here():
    for name, layout in layouts().items():
        assert set(layout.__all__) >= {"DESCRIPTION", "NAME", "read", "recognise"}
        assert "".join(filter(str.isalnum, layout.NAME.lower())) == name.replace("_", "")
        assert 0 < len(layout.DESCRIPTION) < 170
    assert layouts().keys() == WRITERS.keys()


def test_a_layout_joins_by_being_there_alone():
    names = {*layouts(), *(layout.NAME for layout in layouts().values())}
    room = Path(__file__).resolve().parents[2] / "src" / "nnunet_medseg"
    outside = [path for path in room.rglob("*.py") if path.parent.name != "layouts"]

    texts = {
        node.value
        for path in outside
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant)
    }

    assert not texts & names


@pytest.mark.parametrize("name", WRITERS)
def test_a_dataset_is_recognised_as_its_layout_and_no_other(tmp_path, name):
    folder = WRITERS[name](tmp_path / "set")

    reasons = {key: layout.recognise(folder, EXTENSIONS) for key, layout in layouts().items()}

    assert [key for key, reason in reasons.items() if reason] == [name]
    assert not any(layout.recognise(tmp_path, EXTENSIONS) for layout in layouts().values())
    dataset = read_dataset(folder, None)
    assert dataset.reason == reasons[name]
    assert not any(case.source in dataset.reason for case in dataset.cases)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("wrapping", ["set", "a/b/c/Mein Datensatz ü"])
def test_a_dataset_is_read_however_deep_it_is_wrapped_and_whatever_litter_lies_in_it(
    tmp_path, name, wrapping
):
    folder = WRITERS[name](tmp_path / wrapping)
    places = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for place in places:
        touch(place, *LITTER)
    touch(tmp_path, "README.txt")

    found = find_dataset(tmp_path)
    dataset = read_dataset(found, None)

    assert found == folder
    assert len(dataset.cases) == 3
    assert dataset.findings == ()
    assert {path.name[0] for case in dataset.cases for path in case.files}.isdisjoint("._")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("fold", ["all", "1", "cv"])
def test_a_dataset_passes_its_check_with_a_split(tmp_path, name, fold):
    folder = WRITERS[name](tmp_path / "set")
    before = hashes_of(tmp_path)

    outcome = check_dataset(read_dataset(folder, None), Wishes((), (), fold, 1))

    assert outcome.checked is not None, outcome.findings
    for split in outcome.checked.folds.values():
        assert {*split.train, *split.evaluate} == {"case_0001", "case_0002", "case_0003"}
        assert not {*split.train} & {*split.evaluate}
    assert hashes_of(tmp_path) == before


@pytest.mark.parametrize("name", WRITERS)
def test_links_are_not_followed_in_any_layout(tmp_path, name):
    folder = WRITERS[name](tmp_path / "outside")
    (tmp_path / "set").mkdir()
    for path in folder.iterdir():
        (tmp_path / "set" / path.name).symlink_to(path)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        copy = tmp_path / "files" / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(path)

    with pytest.raises(DatasetError, match="No dataset is recognised"):
        find_dataset(tmp_path / "set")
    try:
        dataset = read_dataset(tmp_path / "files", None)
    except DatasetError:
        return
    assert dataset.cases == ()


@pytest.mark.parametrize("name", OF_NAMED_FILES)
def test_a_mixture_of_formats_is_read_and_one_ending_where_it_is_asked_for(tmp_path, name):
    folder = WRITERS[name](tmp_path / "set")
    files = sorted(folder.rglob("*.nii.gz"))
    for path in files[: len(files) // 2]:
        path.rename(path.with_name(path.name.replace(".nii.gz", ".mha")))

    dataset = read_dataset(folder, None)
    asked = read_dataset(folder, ".mha")

    assert len(dataset.cases) == 3
    assert dataset.findings == ()
    assert all(path.suffix == ".mha" for case in asked.cases for path in case.files)


@pytest.mark.parametrize("name", OF_NAMED_FILES)
def test_a_file_that_is_there_in_two_formats_is_a_finding_that_names_it(tmp_path, name):
    folder = WRITERS[name](tmp_path / "set")
    twin = sorted(path for path in folder.rglob("*.nii.gz") if "anat" not in path.parts)
    path = twin[0] if twin else sorted(folder.rglob("*_T1w.nii.gz"))[0]
    touch(path.parent, path.name.replace(".nii.gz", ".nrrd"))

    findings = read_dataset(folder, None).findings

    assert any(path.name.split(".")[0] in finding.message for finding in findings)
    assert {finding.rule for finding in findings} == {"file name"}
    assert all(finding.fix for finding in findings)
    assert read_dataset(folder, ".nii.gz").findings == ()


# --- odd names ---------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *("img", "image", "train", "validate", "label", "seg", "mask", "a", "b", "T1", "Müller"),
        *("imagesTr", "labelsTr", "images", "labels", "masks", "segmentations", "sub-01", "ses-1"),
        *("anat", "derivatives", "rawdata", "T1w", "dseg", "label-", "label-x", "_", "-", ".", " "),
        *("0000", "0001", "_0000", "_seg", "-label", "(", "[", "\\", "\n", "\x1b", "\udcff", "½"),
        *("dataset.json", "background", "1", "٣", "__MACOSX", "=", ","),
    ]
)
NAMES = st.lists(WORDS, min_size=1, max_size=4).map("".join).filter(lambda name: name.strip("."))
ENDINGS = st.sampled_from(["", ".nii.gz", ".nii", ".NRRD", ".seg.nrrd", ".mha", ".json", ".gz"])
PLACES = st.sampled_from(
    [
        *("", "imagesTr", "labelsTr", "images", "labels", "p1", "p2", "p1/segmentations"),
        *("p2/masks", "sub-01/anat", "sub-01/ses-1/anat", "sub-02/anat"),
        *("derivatives/x/sub-01/anat", "derivatives/sub-01/ses-1/anat"),
    ]
).map(lambda place: place.split("/") if place else [])
FILES = st.tuples(st.one_of(PLACES, PLACES, st.lists(NAMES, max_size=4)), NAMES, ENDINGS)
BASES = st.sampled_from(
    [
        (),
        ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
        ("imagesTr/a.nii", "labelsTr/a.nii.gz", "dataset.json"),
        ("images/a.nii", "masks/a_seg.mha"),
        ("p1/a.nii", "p1/segmentations/liver.nii"),
    ]
)


def write_tree(folder: Path, files) -> None:
    for places, name, ending in files:
        path = folder.joinpath(*places, name + ending)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}" if ending == ".json" else "", encoding="utf-8")
        except OSError:
            continue  # a file where a folder should be, or the other way round


@pytest.mark.parametrize("examples", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_tree_of_odd_names_makes_a_layout_fail(tmp_path, examples):
    number = iter(range(10**9))
    recognised = set()

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    @given(BASES, st.lists(FILES, min_size=1, max_size=12))
    def run(base, files):
        folder = tmp_path / str(next(number))
        folder.mkdir()
        touch(folder, *base)
        write_tree(folder, files)
        for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            for name, layout in layouts().items():
                if layout.recognise(place, EXTENSIONS):
                    recognised.add(name)
                    check_read(layout.read(place, EXTENSIONS), place)

    run()
    assert recognised == set(OF_NAMED_FILES)


def check_read(dataset: Dataset, folder: Path) -> None:
    channels = len(dataset.channels)
    for case in dataset.cases:
        assert len(case.images) == channels
        assert all(path.is_file() and folder in path.parents for path in case.files)
        assert not set(case.images) & set(case.label_files)
    assert len({case.source for case in dataset.cases}) == len(dataset.cases)
    assert all(finding.fix and finding.message for finding in dataset.findings)
