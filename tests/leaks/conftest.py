"""What the tests of leaks share."""

from __future__ import annotations

import numpy as np
import pytest
from makers import make_volume

from nnunet_medseg.volume import Volume


@pytest.fixture
def make_bytes_volume():
    """Return a function that makes a volume whose voxels are some bytes."""

    def make(content: bytes) -> Volume:
        array = np.zeros((4, 16, 16), dtype=np.uint8)
        array.ravel()[100 : 100 + len(content)] = list(content)
        return make_volume(array)

    return make
