"""The best nnU-Net v2 segmentation model that a given number of minutes can buy.

The names are imported when they are first used, so that `medseg --help` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnunet_medseg.errors import UserError
    from nnunet_medseg.workflows.check import check
    from nnunet_medseg.workflows.compare import compare
    from nnunet_medseg.workflows.ending import Ending
    from nnunet_medseg.workflows.kept import datasets, forget
    from nnunet_medseg.workflows.predict import predict
    from nnunet_medseg.workflows.train import TrainResult, train

__all__ = [
    "Ending",
    "TrainResult",
    "UserError",
    "check",
    "compare",
    "datasets",
    "forget",
    "predict",
    "train",
]

_PLACES = {
    "Ending": "nnunet_medseg.workflows.ending",
    "TrainResult": "nnunet_medseg.workflows.train",
    "UserError": "nnunet_medseg.errors",
    "check": "nnunet_medseg.workflows.check",
    "compare": "nnunet_medseg.workflows.compare",
    "datasets": "nnunet_medseg.workflows.kept",
    "forget": "nnunet_medseg.workflows.kept",
    "predict": "nnunet_medseg.workflows.predict",
    "train": "nnunet_medseg.workflows.train",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        problem = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(problem)
    return getattr(import_module(_PLACES[name]), name)
