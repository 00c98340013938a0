"""Muon: orthogonal steps for filters, those of SGD for all else."""

from __future__ import annotations

import pytest
import torch
from foreign_models import build_network, plans_of

from nnunet_medseg.nnunet.layout import FORMATS
from nnunet_medseg.nnunet.muon import BLOCK_FILTERS, FILTER_STEP, Muon, is_filter, step_filters

SHAPES = [(8, 4, 3, 3, 3), (32, 1, 3, 3, 3), (4, 8, 2, 2, 2), (6, 5, 3, 3)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def make_weight(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.Parameter(torch.randn(shape, generator=generator))


def make_optimizer(filters=(), others=(), **chosen):
    options = {
        "rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 0.0,
        **chosen,
    }
    return Muon(filters, others, **options)


def give_gradients(weights, seed):
    for number, weight in enumerate(weights):
        weight.grad = make_weight(weight.shape, 100 * seed + number).detach()


def filter_step(gradient):
    """Return the step for a rate of 1."""
    start = torch.zeros_like(gradient)
    step_filters([start], [gradient], rate=1.0, kept=1.0)
    return -start


@each_shape
def test_a_step_of_filters_is_nearly_orthogonal_and_of_the_promised_size(shape):
    step = filter_step(make_weight(shape).detach())

    rows, columns = step.flatten(1).shape
    values = torch.linalg.svdvals(step.flatten(1)) / (FILTER_STEP * max(rows, columns) ** 0.5)
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert step.square().mean().sqrt() == pytest.approx(FILTER_STEP, rel=0.2)
    assert step.shape == shape


def test_filters_are_made_orthogonal_in_blocks():
    blocks = 3
    gradient = make_weight((blocks * BLOCK_FILTERS, 16, 3, 3, 3)).detach()

    steps = filter_step(gradient).split(BLOCK_FILTERS)

    assert len(steps) == blocks
    for step, part in zip(steps, gradient.split(BLOCK_FILTERS), strict=True):
        torch.testing.assert_close(step, filter_step(part))


def test_of_the_axes_of_a_bank_the_shorter_one_is_cut():
    bank = make_weight((3 * BLOCK_FILTERS, 2 * BLOCK_FILTERS)).detach()

    step = filter_step(bank)

    torch.testing.assert_close(step, filter_step(bank.T).T)
    for block in step.split(BLOCK_FILTERS, dim=1):
        values = torch.linalg.svdvals(block) / (FILTER_STEP * len(bank) ** 0.5)
        assert values.min() > 0.6
        assert values.max() < 1.3


@pytest.mark.parametrize("shape", [(131, 16, 3, 3), (320, 16, 3, 3), (16, 40, 2, 2)], ids=str)
def test_any_number_of_filters_can_be_cut_into_blocks(shape):
    step = filter_step(make_weight(shape).detach())

    assert step.shape == shape
    assert step.square().mean().sqrt() == pytest.approx(FILTER_STEP, rel=0.4)


@each_shape
def test_a_step_does_not_depend_on_the_size_of_the_gradient(shape):
    gradient = make_weight(shape).detach()

    small, large = (filter_step(gradient * factor) for factor in (1e-5, 1e5))

    torch.testing.assert_close(small, large)


def test_no_gradient_is_no_step():
    step = filter_step(torch.zeros(8, 4, 3, 3, 3))

    assert torch.equal(step, torch.zeros(8, 4, 3, 3, 3))


@pytest.mark.parametrize("is_gradient_last", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (2 * BLOCK_FILTERS, 8, 1, 3, 3)], ids=str)
def test_filters_channels_last_take_the_same_step(shape, is_gradient_last):
    layout = FORMATS[len(shape)]
    first, gradient = make_weight(shape).detach(), make_weight(shape, 1).detach()
    last = first.to(memory_format=layout, copy=True)
    other = gradient.to(memory_format=layout, copy=True) if is_gradient_last else gradient

    step_filters([first], [gradient], rate=0.1, kept=0.9)
    step_filters([last], [other], rate=0.1, kept=0.9)

    torch.testing.assert_close(last, first, rtol=0, atol=1e-5)
    assert not torch.equal(first, make_weight(shape))


def test_a_weight_with_gaps_in_memory_is_refused_rather_than_left_as_it_is():
    weight = torch.randn(8, 4, 3, 4)[..., :3]

    with pytest.raises(RuntimeError, match="view"):
        step_filters([weight], [torch.randn(8, 4, 3, 3)], rate=0.1, kept=1.0)


def test_banks_of_one_size_do_not_change_each_other():
    shapes = [(8, 4, 3, 3, 3), (8, 16, 3, 3, 3), (4, 8, 2, 2, 2), (256, 300), (128, 400)]
    gradients = [1e3**place * make_weight(shape).detach() for place, shape in enumerate(shapes)]
    together = [torch.zeros(shape) for shape in shapes]

    step_filters(together, gradients, rate=1.0, kept=1.0)

    for step, gradient in zip(together, gradients, strict=True):
        torch.testing.assert_close(-step, filter_step(gradient))


@each_shape
def test_filters_go_where_those_of_torch_go(shape):
    ours, matrix = make_weight(shape), torch.nn.Parameter(make_weight(shape).flatten(1).detach())
    optimizer = make_optimizer([ours], momentum=0.95, weight_decay=0.1)
    # It makes steps of 0.2 of its rate, and does not divide its decay by that.
    ratio = FILTER_STEP / 0.2
    theirs = torch.optim.Muon(
        [matrix], 0.05 * ratio, weight_decay=0.1 / ratio, adjust_lr_fn="match_rms_adamw"
    )

    for seed in range(3):
        give_gradients([ours], seed)
        matrix.grad = ours.grad.flatten(1).clone()
        optimizer.step()
        theirs.step()

    torch.testing.assert_close(ours.flatten(1), matrix, atol=2e-4, rtol=0)


def test_all_else_goes_where_sgd_goes():
    ours, other = make_weight((8,)), make_weight((8,))
    optimizer = make_optimizer(others=[ours])
    sgd = torch.optim.SGD([other], 0.05, momentum=0.9, nesterov=True)

    for seed in range(3):
        give_gradients([ours], seed)
        give_gradients([other], seed)
        optimizer.step()
        sgd.step()

    torch.testing.assert_close(ours, other)


def test_a_weight_without_a_gradient_stays():
    weight = make_weight((8, 4, 3, 3, 3))
    optimizer = make_optimizer([weight], weight_decay=0.5)

    optimizer.step()

    assert torch.equal(weight, make_weight((8, 4, 3, 3, 3)))
    assert not optimizer.state


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_filters_are_all_convolutions_but_those_of_the_heads(kind, dimensions):
    network = build_network(plans_of(kind, dimensions))

    filters = {name for name, weight in network.named_parameters() if is_filter(name, weight)}

    convolutions = {
        f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.modules.conv._ConvNd) and "seg_layers" not in name
    }
    assert filters == convolutions
    assert filters


def test_the_momentum_goes_on_after_an_interruption():
    shapes = [(8, 4, 3, 3, 3), (8,)]
    whole, parted = ([make_weight(shape) for shape in shapes] for _ in range(2))
    steady, first, second = (
        make_optimizer(weights[:1], weights[1:], weight_decay=0.1)
        for weights in (whole, parted, parted)
    )

    for seed in range(4):
        give_gradients(whole, seed)
        give_gradients(parted, seed)
        steady.step()
        if seed == 2:
            second.load_state_dict(first.state_dict())
        (first if seed < 2 else second).step()

    for ours, other in zip(parted, whole, strict=True):
        assert torch.equal(ours, other)
