"""dataset.json: read whatever it holds, and written as nnU-Net wants it."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnunet_medseg.dataset.labels import Label
from nnunet_medseg.dataset.raw_layout import (
    Description,
    describe_json,
    image_path,
    label_path,
    read_cases,
    read_description,
    write_description,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(["channel_names", "modality", "labels"])


def write(folder, content):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "dataset.json").write_bytes(text)
    return folder


@pytest.mark.parametrize(
    ("content", "channels", "labels"),
    [
        ({"channel_names": {"1": "B", "0": "A"}}, ("A", "B"), {}),
        ({"modality": {"0": "MRI"}, "labels": {"0": "background", "2": "x"}}, ("MRI",), {2: "x"}),
        ({"labels": {"background": 0, "left": 1, "Niere ü": 2}}, (), {1: "left", 2: "Niere ü"}),
        ({"labels": {"background": 0, "tumor": "3"}}, (), {3: "tumor"}),
        ({}, (), {}),
    ],
)
def test_both_versions_of_the_description_are_read(tmp_path, content, channels, labels):
    assert read_description(write(tmp_path, content)) == Description(channels, labels)


def test_a_description_saved_by_windows_is_read(tmp_path):
    write(tmp_path, b'\xef\xbb\xbf{"channel_names": {"0": "CT"}}')

    assert read_description(tmp_path).channels == ("CT",)


def test_a_missing_or_linked_description_says_nothing(tmp_path):
    (tmp_path / "set").mkdir()
    write(tmp_path, {"channel_names": {"0": "CT"}})
    (tmp_path / "set" / "dataset.json").symlink_to(tmp_path / "dataset.json")

    assert read_description(tmp_path / "set") == Description()


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "whole": [1, 2]},
        {"ignore": 3, "a": 1},
        {"nothing": 0, "background": 1},
        {"a": 1, "b": 1},
        {"": 1},
        {"a\n": 1},
        {"IGNORE": 2},
        {"background": 0, "1": 2, "Background": 1},
    ],
)
def test_regions_and_reserved_names_are_findings(tmp_path, labels):
    (finding,) = read_description(write(tmp_path, {"labels": labels})).findings

    assert finding.rule == "label kind"
    assert finding.fix


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"[]",
        b"3",
        b"null",
        b'{"labels": {"a": Infinity}}',
        b'{"labels": {"a": NaN}}',
        b'{"labels": {"a": null}}',
        b'{"labels": {"a": {}}}',
        b'{"labels": {"a": 1.5}}',
        b'{"labels": [1, 2]}',
        b'{"labels": {"a": 1' + b"0" * 5000 + b"}}",
        b'{"channel_names": ["CT"]}',
        b'{"channel_names": {"x": "CT"}}',
        b'{"channel_names": "0"}',
    ],
    ids=lambda content: repr(content[:30]),
)
def test_a_damaged_description_is_a_finding(tmp_path, content):
    (finding,) = read_description(write(tmp_path, content)).findings

    assert finding.rule == "dataset.json"
    assert finding.severity == "error"


@settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=st.dictionaries(KEYS, JSON, max_size=3) | JSON)
def test_no_json_is_too_strange_for_a_description(tmp_path, content):
    assert isinstance(read_description(write(tmp_path, content)), Description)


def test_no_bytes_are_too_strange_for_a_description(tmp_path):
    whole = json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}}).encode()
    rng = random.Random(0)

    for _ in range(200):
        content = bytearray(whole)
        content[rng.randrange(len(content))] = rng.randrange(256)
        write(tmp_path, bytes(content[: rng.randrange(1, len(content) + 1)]))
        assert isinstance(read_description(tmp_path), Description)


def test_what_is_written_names_every_file_of_the_cases_that_are_planned_for(tmp_path):
    labels = (Label("liver", 3, 1), Label("tumor", 7, 2))
    label_path(tmp_path, "case_0001").parent.mkdir(parents=True)

    write_description(tmp_path, labels, ("T1", "T2"), ("case_0001",))
    path = image_path(tmp_path, "case_0001", 0).parent.parent / "dataset.json"
    content = json.loads(path.read_text())

    assert content["labels"] == {"background": 0, "liver": 1, "tumor": 2}
    assert content["channel_names"] == {"0": "T1", "1": "T2"}
    assert content["numTraining"] == 1
    assert content["dataset"] == {
        "case_0001": {
            "images": ["imagesTr/case_0001_0000.nii.gz", "imagesTr/case_0001_0001.nii.gz"],
            "label": "labelsTr/case_0001.nii.gz",
        }
    }
    assert "dataset" not in describe_json(tmp_path)


def test_converted_cases_are_listed_by_name_with_their_channels(tmp_path):
    for name in ("case_0003", "case_0001", "case_0002"):
        for path in (
            *(image_path(tmp_path, name, channel) for channel in (1, 0)),
            label_path(tmp_path, name),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    cases = read_cases(tmp_path)

    assert [case.name for case in cases] == ["case_0001", "case_0002", "case_0003"]
    assert [path.name for path in cases[0].images] == [
        "case_0001_0000.nii.gz",
        "case_0001_0001.nii.gz",
    ]
    assert cases[0].label == label_path(tmp_path, "case_0001")
