"""Features that lie channels last in memory, and what stays the same."""

from __future__ import annotations

import copy

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from tiny_training import make_setup, make_tiny_trainer, weights_of

from nnunet_medseg.nnunet.layout import FORMATS, Norm, lay_channels_last
from nnunet_medseg.nnunet.weights import read_checkpoint

LAST = torch.channels_last_3d
SHAPES = {
    "volumes": (3, 2, 8, 16, 16),
    "volumes of one channel": (3, 1, 8, 16, 16),
    "one volume": (1, 1, 8, 16, 16),
    "slices": (3, 2, 16, 16),
}


def make_network(shape: tuple[int, ...]) -> torch.nn.Module:
    """Return a U-Net of two stages and three labels for batches of a shape."""
    torch.manual_seed(0)
    volumes = len(shape) == 5
    return PlainConvUNet(
        shape[1], 2, [4, 8],
        torch.nn.Conv3d if volumes else torch.nn.Conv2d,
        3, [1, 2], 2, 3, 1, conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d if volumes else torch.nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip


def step(network: torch.nn.Module, data: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs and all gradients."""
    outputs = network(data)
    (outputs**2).mean().backward()
    return [outputs.detach(), *(weight.grad for weight in network.parameters())]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_outputs_and_gradients_stay_the_same(shape):
    first = make_network(shape)
    last = copy.deepcopy(first)
    data = torch.randn(shape)

    lay_channels_last(last)

    for ours, own in zip(step(last, data), step(first, data), strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-5)


def test_names_and_values_of_the_weights_stay_the_same():
    first = make_network(SHAPES["volumes"])
    last = copy.deepcopy(first)

    lay_channels_last(last)

    own, ours = first.state_dict(), last.state_dict()
    assert list(own) == list(ours)
    assert all(torch.equal(own[name], ours[name]) for name in own)


# Of one small patch torch convolves with other code, which knows its own layout only.
SEVERAL = {name: shape for name, shape in SHAPES.items() if shape[0] > 1}


@pytest.mark.parametrize("shape", SEVERAL.values(), ids=SEVERAL)
def test_features_lie_channels_last_before_and_after_all_norms(shape):
    network = make_network(shape)
    lay_channels_last(network)
    seen = []
    for module in network.modules():
        if isinstance(module, Norm):
            module.register_forward_hook(lambda *given: seen.extend([given[1][0], given[2]]))

    network(torch.randn(shape))

    assert len(seen) == 2 * 5
    assert all(each.is_contiguous(memory_format=FORMATS[len(shape)]) for each in seen)


def test_a_norm_that_keeps_statistics_stays_what_it_is():
    norm = torch.nn.InstanceNorm3d(4, affine=True, track_running_stats=True)

    lay_channels_last(norm)
    norm(torch.randn(2, 4, 8, 8, 8))

    assert norm.running_mean.abs().sum() > 0


def test_a_training_channels_last_hands_over_weights_laid_as_ever(training_folder):
    setup = make_setup(training_folder, channels_last=True)
    trainer = make_tiny_trainer(setup)

    trainer.run_training()

    inside = [weight for weight in trainer.network.parameters() if weight.ndim == 5]
    assert any(not weight.is_contiguous() for weight in inside)
    for weights in (weights_of(trainer), read_checkpoint(setup.checkpoint)["network_weights"]):
        assert all(weight.is_contiguous() for weight in weights.values())


@pytest.mark.parametrize("is_last", [False, True])
def test_a_weight_of_several_names_is_handed_over_once(training_folder, is_last):
    trainer = make_tiny_trainer(make_setup(training_folder, channels_last=is_last))
    trainer.prepare_network()

    weights = trainer.network_state()["network_weights"]

    places = {weight.data_ptr() for weight in weights.values()}
    assert len(weights) > len(places) == len(list(trainer.network.parameters()))


def test_large_patches_are_normalised_to_three_digits():
    norm = torch.nn.InstanceNorm3d(4, affine=True)
    batch = 3 + 2 * torch.randn(2, 4, 48, 48, 48)
    expected = norm(batch)

    lay_channels_last(norm)

    torch.testing.assert_close(norm(batch.to(memory_format=LAST)), expected, rtol=0, atol=1e-3)


def test_a_training_goes_on_channels_last_from_the_checkpoint_of_another_layout(training_folder):
    make_tiny_trainer(make_setup(training_folder, asked_s=25.0)).run_training()
    setup = make_setup(training_folder, channels_last=True)
    reached = read_checkpoint(setup.checkpoint)
    trainer = make_tiny_trainer(setup)

    trainer.on_train_start()

    for name, weight in trainer.network_state()["network_weights"].items():
        assert torch.equal(weight, reached["network_weights"][name])
    assert all(
        weight.is_contiguous(memory_format=LAST)
        for weight in trainer.network.parameters()
        if weight.ndim == 5
    )
