"""Checkpoints: written through a buffer, read without the full unpickler, hashed tensor by tensor.

Promises: a checkpoint holds tensors and plain types only; reading one runs no code from it; an
archive that unpacks to more than it weighs is refused before memory is taken, and so is a tensor
that claims more than is stored of it.
Does not promise: that a stranger's weights segment well.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nnunet_medseg import archive
from nnunet_medseg.errors import ModelError
from nnunet_medseg.files import write_atomic

__all__ = ["hash_tensors", "read_checkpoint", "write_checkpoint"]

ZIP_START = b"PK\x03\x04"


class _Inert:
    """Stands in for numpy scalars in stock checkpoints; it holds nothing and does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


# Stock checkpoints log numpy scalars. The callables of numpy itself are never allowed: the file
# would choose their arguments.
STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Inert, "numpy._core.multiarray.scalar"),
    (_Inert, "numpy.core.multiarray.scalar"),
    (_Inert, "numpy.dtype"),
]

# What torch's archive reader and its restricted unpickler raise, beside what zip does, on files
# that are damaged or made to harm: an empty stack is an IndexError, a forged size a MemoryError.
UNREADABLE = (*archive.UNREADABLE, AssertionError, pickle.UnpicklingError)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically; `torch.save` to a path would write the file's name into it."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_atomic(path, buffer.getvalue())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours or of stock nnU-Net onto the CPU.

    Raises:
        ModelError: When the file is missing, damaged, of another kind, or tries to run code.
    """
    fix = "Copy the model folder again, or take another model."
    try:
        _check_archive(path)
        with torch.serialization.safe_globals(STAND_INS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as cause:
        problem = f"The model has no file {path}."
        raise ModelError(problem, fix=fix) from cause
    except UNREADABLE as cause:
        problem = f"{path} is not a checkpoint that can be read safely."
        raise ModelError(problem, fix=fix) from cause
    if not isinstance(content, dict) or not _are_tensors(content.get("network_weights")):
        problem = f"{path} holds no network weights."
        raise ModelError(problem, fix=fix)
    return content


def _are_tensors(weights: Any) -> bool:
    return isinstance(weights, dict) and all(
        isinstance(name, str)
        and isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
        for name, tensor in weights.items()
    )


def _check_archive(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        # Anything else torch would read as its format of 2018, which has no directory to check.
        if stream.read(len(ZIP_START)) != ZIP_START:
            problem = "the file is not an archive"
            raise ValueError(problem)
    with zipfile.ZipFile(path) as opened:
        entries = opened.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        problem = "the archive is compressed, which torch never writes"
        raise ValueError(problem)


def hash_tensors(weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the SHA-256 of each tensor's type, shape and bytes, by name."""
    hashes = {}
    for name, tensor in weights.items():
        plain = tensor.detach().cpu().contiguous()
        digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        hashes[name] = digest.hexdigest()
    return hashes
