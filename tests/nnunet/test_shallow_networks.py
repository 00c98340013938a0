"""Networks of fewer stages than nnU-Net's loss of several outputs needs, as of very small images.

The clock counts iterations, so that each takes a second.
"""

from __future__ import annotations

import math

import pytest
from tiny_model import DESCRIPTION
from tiny_training import CASES, CONFIGURATION, make_setup, make_tiny_trainer, make_training_plans

from nnunet_medseg.nnunet.inference import Model, build_network, make_predictor
from nnunet_medseg.nnunet.probe import count_flops, measure_step
from nnunet_medseg.nnunet.weights import read_checkpoint


def test_a_network_of_two_stages_trains(training_folder):
    setup = make_setup(training_folder, asked_s=24.0, watched=CASES[1:])
    trainer = make_tiny_trainer(setup, stages=2)
    epochs, troubles = [], []

    trainer.run_training(on_epoch=epochs.append, on_trouble=troubles.append)

    assert troubles == []
    assert all(math.isfinite(epoch.loss) for epoch in epochs)
    assert epochs[-1].loss < epochs[0].loss


def test_held_out_patches_are_looked_at_while_a_network_of_two_stages_trains(training_folder):
    setup = make_setup(training_folder, asked_s=24.0, watched=CASES[1:])
    trainer = make_tiny_trainer(setup, stages=2)
    trainer.clock.start()
    trainer.prepare_network()
    _, trainer.dataloader_val = trainer.get_dataloaders()

    assert 0.0 <= trainer._validate() <= 1.0


def test_stock_nnunet_opens_what_a_network_of_two_stages_has_learned(training_folder):
    trainer = make_tiny_trainer(make_setup(training_folder, asked_s=24.0), stages=2)
    trainer.run_training()

    weights = read_checkpoint(trainer.setup.checkpoint)["network_weights"]
    plans = make_training_plans(stages=2)
    model = Model(plans, DESCRIPTION, CONFIGURATION, None, (weights,))

    assert make_predictor(model, build_network(model), trainer.setup.device) is not None


@pytest.mark.parametrize(("stages", "is_deep"), [(2, False), (3, True)])
def test_only_a_network_of_three_stages_is_supervised_in_several_outputs(
    training_folder, stages, is_deep
):
    trainer = make_tiny_trainer(make_setup(training_folder), stages=stages)
    trainer.prepare_network()

    assert trainer._bare_network().decoder.deep_supervision is is_deep


def test_the_step_that_is_measured_is_that_of_the_training(training_folder):
    trainer = make_tiny_trainer(make_setup(training_folder), stages=2)
    trainer.clock.start()
    trainer.prepare_network()

    loss = trainer.train_step(trainer.random_batch())["loss"]

    assert math.isfinite(loss)


def test_work_and_time_of_a_network_of_two_stages_are_measured(training_folder):
    plans = make_training_plans(stages=2)

    assert count_flops(plans, CONFIGURATION, DESCRIPTION) > 0
    setup = make_setup(training_folder)
    step_s = measure_step(plans, CONFIGURATION, DESCRIPTION, setup, math.inf)
    assert 0 < step_s < math.inf
