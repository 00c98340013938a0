"""Transfer of weights: what matches is moved bit by bit, and the network answers as before."""

from __future__ import annotations

import itertools

import pytest
import torch
from foreign_models import build_network, plans_of
from hypothesis import given
from hypothesis import strategies as st

from nnunet_medseg.errors import ModelError, UsageError
from nnunet_medseg.nnunet.transfer import (
    Matching,
    Names,
    Transfer,
    match_channels,
    match_labels,
    names_of,
    transfer,
)

LABELS = ("background", "liver", "lesion", "kidney")
KINDS = list(itertools.product(["PlainConvUNet", "ResidualEncoderUNet"], [2, 3]))
each_kind = pytest.mark.parametrize(("kind", "dimensions"), KINDS)


def names(labels=LABELS, channels=("CT",)) -> Names:
    return Names(tuple(labels), tuple(channels))


def move(
    network: torch.nn.Module, target: torch.nn.Module, matching: Matching, source: Names, new: Names
) -> Transfer:
    """Transfer into the target and load the result there."""
    result = transfer(network.state_dict(), target, matching, source, new)
    target.load_state_dict(result.weights)
    return result


def answer(network: torch.nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Return the logits at each resolution."""
    with torch.no_grad():
        return list(network.eval()(image))


def image_of(channels: int, dimensions: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, *[16] * dimensions, generator=generator)


def parameter_count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# --- moving ------------------------------------------------------------------------------------


@each_kind
def test_the_same_labels_and_channels_give_the_same_weights_bit_by_bit(kind, dimensions):
    plans = plans_of(kind, dimensions)
    network, target = build_network(plans, 2, 4), build_network(plans, 2, 4, seed=1)
    named = names(channels=("T1", "FLAIR"))

    result = transfer(network.state_dict(), target, Matching((0, 1, 2, 3), (0, 1)), named, named)

    expected = network.state_dict()
    assert list(result.weights) == list(expected)
    assert all(torch.equal(result.weights[name], expected[name]) for name in expected)
    assert (result.adapted, result.initialised) == (0, 0)
    assert result.transferred == parameter_count(target)
    assert result.lines == (
        "the head keeps background, liver, lesion and kidney",
        "the first convolution takes T1 and FLAIR from the model",
    )


@each_kind
def test_permuted_labels_give_the_permuted_answer(kind, dimensions):
    plans = plans_of(kind, dimensions)
    network, target = build_network(plans), build_network(plans, seed=1)
    new = names(("background", "kidney", "liver", "lesion"))

    result = move(network, target, Matching((0, 3, 1, 2), (0,)), names(), new)

    image = image_of(1, dimensions)
    for before, after in zip(answer(network, image), answer(target, image), strict=True):
        torch.testing.assert_close(after, before[:, [0, 3, 1, 2]])
    assert result.transferred == parameter_count(target)
    assert result.lines[0] == "the head keeps background, kidney, liver and lesion"


@each_kind
def test_a_subset_of_labels_gives_that_part_of_the_answer(kind, dimensions):
    plans = plans_of(kind, dimensions)
    network, target = build_network(plans), build_network(plans, heads=2, seed=1)

    result = move(network, target, Matching((0, 2), (0,)), names(), names(("background", "lesion")))

    image = image_of(1, dimensions)
    for before, after in zip(answer(network, image), answer(target, image), strict=True):
        torch.testing.assert_close(after, before[:, [0, 2]])
    assert result.lines[0] == (
        "the head keeps background and lesion; the model's liver and kidney are left out"
    )


@each_kind
def test_new_labels_keep_their_random_rows_beside_the_known_ones(kind, dimensions):
    plans = plans_of(kind, dimensions)
    network = build_network(plans, heads=2)
    target, fresh = (build_network(plans, heads=4, seed=1) for _ in range(2))
    new = names(("background", "cyst", "liver", "vein"))

    result = move(
        network, target, Matching((0, None, 1, None), (0,)), names(("background", "liver")), new
    )

    image = image_of(1, dimensions)
    for before, after in zip(answer(network, image), answer(target, image), strict=True):
        torch.testing.assert_close(after[:, [0, 2]], before)
    heads = [name for name in fresh.state_dict() if ".seg_layers." in name]
    assert len(heads) == 4
    for name in heads:
        assert torch.equal(target.state_dict()[name][[1, 3]], fresh.state_dict()[name][[1, 3]])
    assert result.initialised == 2 * (8 + 1) + 2 * (4 + 1)
    assert result.transferred + result.initialised == parameter_count(target)
    assert result.lines[0] == "the head keeps background and liver; cyst and vein are new"


@each_kind
def test_an_added_channel_starts_as_the_average(kind, dimensions):
    plans = plans_of(kind, dimensions)
    network, target = build_network(plans, inputs=2), build_network(plans, inputs=3, seed=1)
    source, new = names(channels=("T1", "T2")), names(channels=("FLAIR", "T2", "T1"))

    result = move(network, target, Matching((0, 1, 2, 3), (None, 1, 0)), source, new)

    (first,) = (name for name in target.keys_to_in_proj if name.endswith(".conv"))
    before = network.state_dict()[f"{first}.weight"]
    after = target.state_dict()[f"{first}.weight"]
    torch.testing.assert_close(after[:, 0], (before[:, 0] + before[:, 1]) / 2)
    image = image_of(2, dimensions)
    zero = torch.zeros_like(image[:, :1])
    swapped = torch.cat([zero, image[:, 1:], image[:, :1]], dim=1)
    for known, seen in zip(answer(network, image), answer(target, swapped), strict=True):
        torch.testing.assert_close(seen, known)
    assert result.adapted == 4 * 3**dimensions
    assert result.transferred + result.adapted == parameter_count(target)
    assert result.lines[1] == (
        "the first convolution takes T2 and T1 from the model and FLAIR as the average of its "
        "channels"
    )


def test_a_channel_that_is_not_there_any_more_is_left_out():
    plans = plans_of()
    network, target = build_network(plans, inputs=2), build_network(plans, inputs=1, seed=1)
    source, new = names(channels=("T1", "T2")), names(channels=("T2",))

    result = move(network, target, Matching((0, 1, 2, 3), (1,)), source, new)

    image = image_of(1, 3)
    both = torch.cat([torch.zeros_like(image), image], dim=1)
    torch.testing.assert_close(answer(target, image), answer(network, both))
    assert result.lines[1].endswith("takes T2 from the model; the model's T1 is left out")


def test_channels_of_which_the_model_knows_none_are_all_averages():
    plans = plans_of()
    network, target = build_network(plans, inputs=1), build_network(plans, inputs=2, seed=1)

    result = move(
        network, target, Matching((0, 1, 2, 3), (None, None)), names(), names(channels=("A", "B"))
    )

    assert result.lines[1] == (
        "the first convolution takes A and B as the average of the model's channels"
    )
    assert result.adapted == 2 * 4 * 27


def test_a_label_under_another_name_is_told():
    plans = plans_of()
    network, target = build_network(plans, heads=2), build_network(plans, heads=2, seed=1)
    source, new = names(("background", "Tumour"), ("MRI",)), names(("background", "Lesion"))

    result = move(network, target, Matching((0, 1), (0,)), source, new)

    assert result.lines == (
        "the head keeps background and Lesion (its Tumour)",
        "the first convolution takes CT (its MRI) from the model",
    )


def test_neither_the_model_nor_the_network_is_changed_and_no_memory_is_shared():
    plans = plans_of()
    network, target = build_network(plans), build_network(plans, heads=2, seed=1)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    source = network.state_dict()

    result = transfer(
        source, target, Matching((0, None), (0,)), names(), names(("background", "cyst"))
    )

    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())
    taken = {tensor.data_ptr() for tensor in result.weights.values()}
    there = [*source.values(), *target.state_dict().values()]
    assert taken.isdisjoint(tensor.data_ptr() for tensor in there)
    assert len(taken) == len(list(target.parameters()))


def test_half_precision_weights_are_taken_into_the_precision_of_the_network():
    plans = plans_of()
    halves = {name: tensor.half() for name, tensor in build_network(plans).state_dict().items()}

    result = transfer(
        halves, build_network(plans, seed=1), Matching((0, 1, 2, 3), (0,)), names(), names()
    )

    assert {tensor.dtype for tensor in result.weights.values()} == {torch.float32}


@given(
    labels=st.lists(st.none() | st.integers(1, 3), min_size=1, max_size=4),
    channels=st.lists(st.none() | st.integers(0, 1), min_size=1, max_size=3),
)
def test_every_parameter_is_counted_once_whatever_matches(labels, channels):
    plans = plans_of()
    target = build_network(plans, len(channels), len(labels) + 1, seed=1)
    new = names(
        ("background", *map(str, range(len(labels)))), tuple(map(str, range(len(channels))))
    )

    result = transfer(
        build_network(plans, inputs=2).state_dict(),
        target,
        Matching((0, *labels), tuple(channels)),
        names(channels=("T1", "T2")),
        new,
    )

    assert result.transferred + result.adapted + result.initialised == parameter_count(target)
    target.load_state_dict(result.weights)


# --- what does not go together -----------------------------------------------------------------


def refuse(network: torch.nn.Module, target: torch.nn.Module, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        transfer(network.state_dict(), target, Matching((0, 1, 2, 3), (0,)), names(), names())


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_slices_do_not_go_into_volumes(kind):
    refuse(
        build_network(plans_of(kind, 2)),
        build_network(plans_of(kind, 3)),
        r"one of slices \(2D\), .* one of volumes \(3D\)",
    )


def test_another_encoder_is_named():
    refuse(
        build_network(plans_of("PlainConvUNet")),
        build_network(plans_of("ResidualEncoderUNet")),
        "residual encoder",
    )


def test_another_number_of_layers_is_refused():
    plans = plans_of()
    more = plans_of()
    keywords = more["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    keywords["n_conv_per_stage"] = [1, 2, 2]

    refuse(build_network(more), build_network(plans), "only the model has encoder.stages.1.0")
    refuse(build_network(plans), build_network(more), "only the network that is to be trained has")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("features_per_stage", [4, 8, 6]),
        ("features_per_stage", [6, 8, 8]),
        ("kernel_sizes", [[3, 3, 3], [1, 3, 3], [3, 3, 3]]),
        ("kernel_sizes", [[1, 3, 3], [3, 3, 3], [3, 3, 3]]),
        ("strides", [[1, 1, 1], [2, 2, 2], [1, 2, 2]]),
    ],
)
def test_layers_of_other_sizes_are_refused(key, value):
    changed = plans_of()
    changed["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"][key] = value

    refuse(build_network(changed), build_network(plans_of()), "other sizes: .* in the model and")


def test_what_is_no_network_of_nnunet_is_refused():
    with pytest.raises(ModelError, match="neither"):
        transfer({}, build_network(plans_of()), Matching((0,), (0,)), names(), names())


# --- labels ------------------------------------------------------------------------------------

BACKGROUND = {"background": 0}


def test_labels_match_by_name_whatever_their_case_or_order():
    source = BACKGROUND | {"Anterior": 1, "Posterior": 2}
    target = BACKGROUND | {" posterior": 1, "ANTERIOR": 2, "tail": 3}

    assert match_labels(source, target, {}, {}, {}) == (0, 2, 1, None)


def test_names_that_differ_in_case_only_match_themselves():
    both = BACKGROUND | {"lv": 1, "LV": 2}

    assert match_labels(both, both, {}, {}, {}) == (0, 1, 2)


def test_a_renamed_label_is_taken_and_is_not_taken_again_by_its_old_name():
    source = BACKGROUND | {"Tumor": 1, "Liver": 2}
    target = BACKGROUND | {"tumor": 1, "Lesion": 2, "liver": 3}

    assert match_labels(source, target, {"TUMOR": "lesion"}, {}, {}) == (0, None, 1, 2)


def test_names_may_be_swapped():
    labels = BACKGROUND | {"left": 1, "right": 2}

    assert match_labels(labels, labels, {"left": "right", "right": "left"}, {}, {}) == (0, 2, 1)


def test_the_outputs_background_is_the_background_whatever_it_is_called():
    assert match_labels({"Back": 0, "a": 1}, {"background": 0, "b": 1}, {}, {}, {}) == (0, None)


def test_a_label_without_a_name_matches_the_one_of_its_value():
    source = BACKGROUND | {"Anterior": 1, "Posterior": 2}
    target = BACKGROUND | {"label_1": 1, "label_7": 2}

    matched = match_labels(
        source, target, {}, {"Anterior": 7, "Posterior": 2}, {"label_1": 1, "label_7": 7}
    )

    assert matched == (0, None, 1)


def test_a_name_comes_before_a_value():
    source = BACKGROUND | {"label_2": 1, "Liver": 2}
    target = BACKGROUND | {"label_2": 1, "liver": 2}

    matched = match_labels(
        source, target, {}, {"label_2": 5, "Liver": 2}, {"label_2": 2, "liver": 9}
    )

    assert matched == (0, 1, 2)


def test_a_label_that_someone_called_so_is_not_matched_by_value():
    source, target = BACKGROUND | {"Liver": 1}, BACKGROUND | {"label_1": 1}

    assert match_labels(source, target, {}, {"Liver": 1}, {"label_1": 4}) == (0, None)


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        ({"Spleen": "Lesion"}, "the model has no label Spleen; it has Tumor and Liver"),
        ({"Tumor": "Cyst"}, "the dataset has no label Cyst; it has Lesion and Liver"),
        ({"background": "Lesion"}, "the model has no label background"),
        ({"Tumor": "Lesion", "Liver": "lesion"}, "a label of the dataset comes twice"),
        ({"Tumor": "Lesion", "tumor": "Liver"}, "a label of the model comes twice"),
    ],
)
def test_a_renaming_that_names_what_is_not_there_is_refused(renamed, message):
    source = BACKGROUND | {"Tumor": 1, "Liver": 2}
    target = BACKGROUND | {"Lesion": 1, "Liver": 2}

    with pytest.raises(UsageError, match=message):
        match_labels(source, target, renamed, {}, {})


# --- channels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (["CT"], ["ct"], (0,)),
        (["T1", "T2"], ["T2", "T1"], (1, 0)),
        (["T1", "T2"], ["FLAIR", "T1"], (1, 0)),
        (["T1"], ["T1", "FLAIR"], (0, None)),
        (["T1", "T2"], ["FLAIR"], (None,)),
        (["MRI", "MRI"], ["MRI", "MRI"], (0, 1)),
        (["MRI", "MRI", "CT"], ["CT", "MRI", "MRI"], (2, 0, 1)),
        (["MRI"], ["MRI", "MRI"], (0, None)),
        (["A", "B", "C"], ["X", "B", "Y"], (0, 1, 2)),
    ],
)
def test_channels_match_by_name_and_then_in_order(source, target, expected):
    assert match_channels(source, target) == expected


def test_names_are_in_the_order_of_outputs_and_inputs():
    description = {
        "labels": {"b": 2, "background": 0, "a": 1},
        "channel_names": {"10": "K", "2": "C", "1": "B"},
    }

    assert names_of(description) == names(("background", "a", "b"), ("B", "C", "K"))
