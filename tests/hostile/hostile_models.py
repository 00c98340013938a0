"""Model folders, checkpoints and plans that are given to start from, or to predict with."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpus import MODEL, PRETRAINED, Hostile, Place
from foreign_models import FINAL, Program, plans_of, stock_checkpoint
from tiny_model import DESCRIPTION, make_facts, make_parts

from nnunet_medseg.bundle.build import build_model
from nnunet_medseg.errors import ModelError
from nnunet_medseg.files import read_json, write_json

BOTH = (PRETRAINED, MODEL)
CHOSEN = ("configurations", "3d_fullres")
NETWORK = (*CHOSEN, "architecture")
KEYWORDS = (*NETWORK, "arch_kwargs")
PICKLED = "not a checkpoint that can be read safely"


class Call:
    """Calls something by its name when it is unpickled in full."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def changed(content: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return a copy of nested tables with another value at one place."""
    copy = deepcopy(content)
    reduce(lambda part, key: part[key], place[:-1], copy)[place[-1]] = value
    return copy


# --- checkpoints -------------------------------------------------------------------------------


def saved(change: Callable[[dict[str, Any], Place], Any], **options) -> Callable[[Place], Path]:
    """Return a maker of a model folder whose checkpoint was changed before it was saved."""

    def make(place: Place) -> Path:
        folder = place.copy_stock()
        content = stock_checkpoint(plans_of())
        torch.save(change(content, place), folder / "fold_0" / FINAL, **options)
        return folder

    return make


def with_gadget(*keys: str) -> Callable[[dict[str, Any], Place], Any]:
    """Return a change that puts a program at a place of the checkpoint."""
    return lambda content, place: _put(content, keys, Program(place.marker))


def _put(content: dict[str, Any], keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    reduce(lambda part, key: part[key], keys[:-1], content)[keys[-1]] = value
    return content


def with_tensor(tensor: Callable[[], torch.Tensor]) -> Callable[[dict[str, Any], Place], Any]:
    """Return a change that puts a tensor in the place of the first of the network."""

    def change(content: dict[str, Any], _: Place) -> Any:
        weights = content["network_weights"]
        weights[next(iter(weights))] = tensor()
        return content

    return change


def written(content: Callable[[Place], bytes]) -> Callable[[Place], Path]:
    """Return a maker of a model folder whose checkpoint is made of other bytes."""

    def make(place: Place) -> Path:
        folder = place.copy_stock()
        (folder / "fold_0" / FINAL).write_bytes(content(place))
        return folder

    return make


def old_tar(place: Place) -> bytes:
    """Return the format of torch before 0.1.10: a tar with pickles in it."""
    import tarfile

    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Program(place.marker))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def rewritten(change: Callable[[bytes], bytes], **options) -> Callable[[Place], Path]:
    """Return a maker of a checkpoint whose pickle was changed within its archive."""

    def make(place: Place) -> Path:
        folder = place.copy_stock()
        path = folder / "fold_0" / FINAL
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, content in entries.items():
                is_pickle = name.endswith("data.pkl")
                archive.writestr(name, change(content) if is_pickle else content)
        return folder

    return make


def huge_shape(content: bytes) -> bytes:
    """Give a tensor a shape of 2³¹ - 1 in each axis, with the storage that it has."""
    whole = b"K\x04K\x01K\x03K\x03K\x03t"  # the shape (4, 1, 3, 3, 3), after its first mark
    assert whole in content
    side = b"J\xff\xff\xff\x7f"
    return content.replace(whole, side * 5 + b"t", 1)


def negative_shape(content: bytes) -> bytes:
    return content.replace(b"K\x04K\x01K\x03K\x03K\x03t", b"J\xff\xff\xff\xff" * 5 + b"t", 1)


def huge_bytes(_: bytes) -> bytes:
    """Claim a text of 2⁴⁰ bytes."""
    return b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x."


def packed_bomb(place: Place) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        with zipfile.ZipFile(place.stock / "fold_0" / FINAL) as whole:
            for entry in whole.infolist():
                made.writestr(entry.filename, whole.read(entry))
        with made.open("archive/data/999", "w") as data:
            for _ in range(400):
                data.write(bytes(1 << 20))
    return stream.getvalue()


def script(_: Place) -> bytes:
    """Return a program of torch, which is an archive too."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Identity()), stream)
    return stream.getvalue()


def endless() -> dict[str, Any]:
    plans: dict[str, Any] = plans_of()
    plans["configurations"]["again"] = plans
    return plans


def explosive() -> dict[str, Any]:
    """Return plans of few objects that would be a text of 10²⁰ letters."""
    content: list[Any] = ["x" * 10]
    for _ in range(20):
        content = [content] * 10
    return plans_of() | {"original_median_shape_after_transp": content}


def alone(change: Callable[[dict[str, Any], Place], Any]) -> Callable[[Place], Path]:
    """Return a maker of a checkpoint that is given without its folder."""

    def make(place: Place) -> Path:
        path = place.given / "weights.pth"
        torch.save(change(stock_checkpoint(plans_of()), place), path)
        return path

    return make


def pickles_only(place: Place) -> Path:
    """Make a model of nnU-Net v1: all of it is pickles."""
    folder = place.given / "Task001" / "nnUNetTrainerV2__nnUNetPlansv2.1"
    (folder / "fold_0").mkdir(parents=True)
    gadget = pickle.dumps(Program(place.marker))
    for name in ("plans.pkl", "fold_0/model_final_checkpoint.model", f"fold_0/{FINAL}.pkl"):
        (folder / name).write_bytes(gadget)
    return place.given / "Task001"


def pickles_beside(place: Place) -> Path:
    """Make a good model with pickles beside it, which nobody needs to read."""
    folder = place.copy_stock()
    gadget = pickle.dumps(Program(place.marker))
    for name in (
        "plans.pkl",
        "dataset_fingerprint.pkl",
        "fold_0/case_0001.pkl",
        "postprocessing.pkl",
    ):
        (folder / name).write_bytes(gadget)
    (folder / "sitecustomize.py").write_text("import planted")
    return folder


def one_pickle(place: Place) -> Path:
    path = place.given / "model.pkl"
    path.write_bytes(pickle.dumps(Program(place.marker)))
    return path


NAN = float("nan")
EXPANDED = with_tensor(lambda: torch.zeros(1).expand(1000, 1000, 1000))
SPARSE = with_tensor(
    lambda: torch.sparse_coo_tensor(size=(1 << 30, 1 << 30), check_invariants=False)
)
QUANTISED = with_tensor(lambda: torch.zeros((1 << 20, 1 << 20, 1 << 20), device="meta"))

CHECKPOINTS = tuple(
    Hostile(name, doors, make, ModelError, says)
    for name, doors, make, *says in (
        (
            "pth with a gadget in its weights",
            BOTH,
            saved(with_gadget("network_weights", "x")),
            PICKLED,
        ),
        ("pth with a gadget in its plans", BOTH, saved(with_gadget("init_args", "plans")), PICKLED),
        ("pth with a gadget in its log", BOTH, saved(with_gadget("logging", "x")), PICKLED),
        (
            *("pth that evaluates a text", BOTH),
            saved(lambda content, _: content | {"x": Call(eval, "__import__('planted')")}),
            PICKLED,
        ),
        (
            *("pth that calls torch's own loader", BOTH),
            saved(lambda content, place: content | {"x": Call(torch.load, str(place.outside))}),
            PICKLED,
        ),
        (
            *("pth with an array of objects", BOTH),
            saved(lambda content, place: content | {"x": np.array([Program(place.marker)])}),
            PICKLED,
        ),
        (
            *("pth that is a plain pickle", BOTH),
            written(lambda place: pickle.dumps(Program(place.marker))),
            PICKLED,
        ),
        (
            *("pth of the format of 2018", BOTH),
            saved(with_gadget("logging", "x"), _use_new_zipfile_serialization=False),
            PICKLED,
        ),
        ("pth of the format of 2016", BOTH, written(old_tar), PICKLED),
        ("pth that is a script", BOTH, written(script), FINAL),
        ("pth bomb", BOTH, written(packed_bomb), PICKLED),
        ("pth compressed", BOTH, rewritten(bytes, compression=zipfile.ZIP_DEFLATED), PICKLED),
        ("tensor larger than its storage", BOTH, saved(EXPANDED), FINAL),
        ("tensor of absurd shape", BOTH, rewritten(huge_shape), FINAL),
        ("tensor of negative shape", BOTH, rewritten(negative_shape), FINAL),
        ("tensor that is sparse and huge", BOTH, saved(SPARSE), FINAL),
        ("tensor without values and huge", BOTH, saved(QUANTISED), FINAL),
        ("pickle that claims a terabyte", BOTH, rewritten(huge_bytes), PICKLED),
        (
            "tensor that is no number",
            (PRETRAINED,),
            saved(with_tensor(lambda: torch.full((4, 1, 3, 3, 3), NAN))),
            "not finite",
        ),
        ("tensor of another shape", BOTH, saved(with_tensor(lambda: torch.zeros(7))), "do not fit"),
        (
            "plans in a pth that hold themselves",
            (PRETRAINED,),
            alone(lambda content, _: _put(content, ("init_args", "plans"), endless())),
            "not plain",
        ),
        (
            "plans in a pth that explode as a text",
            (PRETRAINED,),
            alone(lambda content, _: _put(content, ("init_args", "plans"), explosive())),
            "too large",
        ),
        ("model of pickles only", BOTH, pickles_only, "Task001"),
        ("pickle alone", (PRETRAINED,), one_pickle, "model.pkl", "is no model"),
    )
)

# --- plans -------------------------------------------------------------------------------------


def text_of(name: str, text: Callable[[Place], bytes]) -> Callable[[Place], Path]:
    """Return a maker of a model folder with other bytes in one of its texts."""

    def make(place: Place) -> Path:
        folder = place.copy_stock()
        (folder / name).write_bytes(text(place))
        return folder

    return make


def plans_with(*changes: tuple[tuple[str, ...], Any]) -> Callable[[Place], Path]:
    """Return a maker of a model folder with other values in its plans."""

    def make(place: Place) -> Path:
        folder = place.copy_stock()
        plans = read_json(folder / "plans.json")
        for keys, value in changes:
            plans = changed(plans, keys, value)
        write_json(folder / "plans.json", plans)
        return folder

    return make


def description_with(**changes: Any) -> Callable[[Place], Path]:
    """Return a maker of a model folder with other entries in its dataset.json."""

    def make(place: Place) -> Path:
        folder = place.copy_stock()
        write_json(folder / "dataset.json", DESCRIPTION | changes)
        return folder

    return make


def manifest_with(content: Any) -> Callable[[Place], Path]:
    """Return a maker of a model of ours with another manifest, or other labels in it."""

    def make(place: Place) -> Path:
        folder = place.given / "Ours"
        build_model(folder, make_parts(), make_facts())
        path = folder / "manifest.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
            return folder
        labels = [{"name": name, "value": value, "index": index} for name, value, index in content]
        write_json(path, read_json(path) | {"labels": labels})
        return folder

    return make


def gigantic() -> Callable[[Place], Path]:
    """Ask for a network of which every number is allowed, and which takes terabytes."""
    stages, blocks = 12, [32] * 12
    keywords = {
        "n_stages": stages,
        "features_per_stage": [2048] * stages,
        "kernel_sizes": [[9] * 3] * stages,
        "strides": [[1] * 3] * stages,
        "n_conv_per_stage": blocks,
        "n_conv_per_stage_decoder": blocks[1:],
    }
    return plans_with(*(((*KEYWORDS, key), value) for key, value in keywords.items()))


REFUSED = "plans are not accepted"
PLANS = tuple(
    Hostile(name, BOTH, make, ModelError, ("Stock", *says))
    for name, make, *says in (
        (
            "plans that name os.system",
            plans_with(((*NETWORK, "network_class_name"), "os.system")),
            REFUSED,
        ),
        (
            "plans that name a module",
            plans_with(((*NETWORK, "network_class_name"), "planted.Network")),
            REFUSED,
        ),
        (
            "plans that name a reader",
            plans_with((("image_reader_writer",), "planted.Reader")),
            REFUSED,
        ),
        (
            "plans that name a layer",
            plans_with(((*KEYWORDS, "nonlin"), "planted.Network")),
            REFUSED,
        ),
        (
            "plans that import a keyword",
            plans_with(((*NETWORK, "_kw_requires_import"), ["conv_op", "planted.run"])),
            REFUSED,
        ),
        (
            "plans that name a label manager",
            plans_with((("label_manager",), "planted.Network")),
            REFUSED,
        ),
        (
            "plans that name a preprocessor",
            plans_with(((*CHOSEN, "preprocessor_name"), "planted.Network")),
            REFUSED,
        ),
        (
            "plans that name a resampling",
            plans_with(((*CHOSEN, "resampling_fn_data"), "os.system")),
            REFUSED,
        ),
        (
            "plans that name a normalisation",
            plans_with(((*CHOSEN, "normalization_schemes"), ["planted.Network"])),
            REFUSED,
        ),
        (
            "plans with a patch of 10^12 voxels",
            plans_with(((*CHOSEN, "patch_size"), [10**4] * 3)),
            REFUSED,
        ),
        (
            "plans with a number of 400 digits",
            plans_with(((*CHOSEN, "spacing"), [10**400, 1, 1])),
            REFUSED,
        ),
        ("plans with a million stages", plans_with(((*KEYWORDS, "n_stages"), 10**6)), REFUSED),
        (
            "plans with a billion features",
            plans_with(((*KEYWORDS, "features_per_stage"), [10**9] * 3)),
            REFUSED,
        ),
        ("plans of a network of terabytes", gigantic(), "do not fit"),
        (
            "plans with strides of nothing",
            plans_with(((*KEYWORDS, "strides"), [[0] * 3] * 3)),
            REFUSED,
        ),
        ("plans that are not numbers", plans_with(((*CHOSEN, "patch_size"), ["16"] * 3)), REFUSED),
        (
            "plans with a folder of escape codes",
            plans_with(((*NETWORK, "network_class_name"), "\x1b[2J\x1b]0;owned\x07\nError")),
            REFUSED,
        ),
        ("plans nested without end", text_of("plans.json", lambda _: b"[" * 10**6), "plans.json"),
        (
            "plans of 100 MB",
            text_of("plans.json", lambda _: b'["' + b"x" * 10**8 + b'"]'),
            "plans.json",
        ),
        (
            "plans that are a pickle",
            text_of("plans.json", lambda place: pickle.dumps(Program(place.marker))),
            "plans.json",
        ),
        (
            "labels without end",
            description_with(labels={"background": 0} | {f"l{n}": n for n in range(1, 100_000)}),
            REFUSED,
        ),
        ("label of 10^12", description_with(labels={"background": 0, "a": 10**12}), REFUSED),
        (
            "channels without end",
            description_with(channel_names={str(n): "CT" for n in range(10_000)}),
            REFUSED,
        ),
    )
)

MANIFESTS = tuple(
    Hostile(name, (MODEL,), manifest_with(content), ModelError, ("manifest", "Ours"))
    for name, content in (
        ("manifest with a label of 10^12", [("a", 10**12, 1), ("b", 2, 2), ("c", 3, 3)]),
        ("manifest with a negative label", [("a", -1, 1), ("b", 2, 2), ("c", 3, 3)]),
        ("manifest with a label of 10^400", [("a", 10**400, 1), ("b", 2, 2), ("c", 3, 3)]),
        ("manifest without labels", []),
        ("manifest nested without end", b"[" * 10**6),
        ("manifest of 100 MB", b'["' + b"x" * 10**8 + b'"]'),
    )
)

# --- links and pipes in a model ----------------------------------------------------------------


def replaced(name: str, target: str) -> Callable[[Place], Path]:
    """Return a maker of a model folder of which one part is a link."""

    def make(place: Place) -> Path:
        folder = place.copy_stock()
        path = folder / name
        path.rename(place.root / "rest")
        path.symlink_to(target.format(outside=place.outside))
        return folder

    return make


def piped(name: str) -> Callable[[Place], Path]:
    """Return a maker of a model folder of which one file is a pipe that nobody writes to."""

    def make(place: Place) -> Path:
        folder = place.copy_stock()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        return folder

    return make


def with_loop(place: Place) -> Path:
    folder = place.copy_stock()
    (folder / "again").symlink_to(folder, target_is_directory=True)
    return folder


FOLDERS = tuple(
    Hostile(name, BOTH, make, ModelError, says)
    for name, make, *says in (
        (
            "model with linked plans",
            replaced("plans.json", "{outside}/Model/plans.json"),
            "plans.json",
        ),
        (
            "model with a linked checkpoint",
            replaced(f"fold_0/{FINAL}", "{outside}/Model/fold_0/" + FINAL),
            FINAL,
        ),
        ("model with a linked fold", replaced("fold_0", "{outside}/Model/fold_0"), "fold_0"),
        ("model with plans that link to themselves", replaced("plans.json", "plans.json"), "Stock"),
        ("model with plans from a device", replaced("plans.json", "/dev/zero"), "plans.json"),
        (
            "model with a checkpoint from a device",
            replaced(f"fold_0/{FINAL}", "/dev/zero"),
            "Stock",
        ),
        ("model with a folder that leads in a circle", with_loop, "again"),
        ("model with plans that are a pipe", piped("plans.json"), "plans.json"),
        ("model with a checkpoint that is a pipe", piped(f"fold_0/{FINAL}"), "Stock"),
    )
)

HARMLESS = (
    Hostile("model with pickles beside it", (MODEL,), pickles_beside, None, ("segmentations",)),
    Hostile(
        "model with labels of escape codes",
        (MODEL,),
        description_with(labels={"background": 0, "\x1b[2J\x1b]0;owned\x07": 1, "a\nb": 2, "c": 3}),
        None,
        (r"\x1b[2J\x1b]0;owned\x07 = 1", r"a\nb = 2"),
    ),
)

MODELS = (*CHECKPOINTS, *PLANS, *MANIFESTS, *FOLDERS, *HARMLESS)
