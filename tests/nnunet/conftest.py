"""Fixtures for tests that train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_training import write_preprocessed

from nnunet_medseg.nnunet import trainer


@pytest.fixture(scope="session")
def preprocessed(tmp_path_factory) -> Path:
    """Return the folder `preprocessed` of two phantoms, made once: a training only reads it."""
    folder = tmp_path_factory.mktemp("tiny")
    write_preprocessed(folder)
    return folder / "preprocessed"


@pytest.fixture
def training_folder(preprocessed, tmp_path, monkeypatch) -> Iterator[Path]:
    """Return a folder for a training on the two phantoms, which are all that is in it."""
    (tmp_path / "preprocessed").symlink_to(preprocessed)
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    # For so small a network threads that wait for each other take longer than the work.
    monkeypatch.setattr(trainer, "core_count", lambda: 1)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
