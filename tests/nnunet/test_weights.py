"""Checkpoints: what is written, and what is read without running anything."""

from __future__ import annotations

import ast
import io
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_models import Program

import nnunet_medseg
from nnunet_medseg.errors import ModelError
from nnunet_medseg.nnunet.weights import hash_tensors, read_checkpoint, write_checkpoint

SOURCE = Path(nnunet_medseg.__file__).parent
REFUSED = "is not a checkpoint|holds no network weights"


def make_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(4, 8, generator=generator) for name in ("first", "second")}


def write_good(path: Path) -> Path:
    write_checkpoint(path, {"network_weights": make_weights(), "epoch": 3})
    return path


def rewrite(source: Path, target: Path, compression: int, extra: bytes = b"") -> Path:
    """Copy a checkpoint's entries into another archive, one of them longer."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, content + extra if "data/0" in entry.filename else content)
    return target


# --- writing -----------------------------------------------------------------------------------


def test_what_was_written_is_read_back(tmp_path):
    path = write_good(tmp_path / "checkpoint.pth")

    content = read_checkpoint(path)

    assert content["epoch"] == 3
    for name, tensor in make_weights().items():
        torch.testing.assert_close(content["network_weights"][name], tensor, rtol=0, atol=0)


def test_no_path_or_file_name_is_written(tmp_path):
    path = write_good(tmp_path / "Miller_Anna.pth")

    content = path.read_bytes()

    assert b"Miller" not in content
    assert str(tmp_path).encode() not in content


def test_the_same_content_makes_the_same_file(tmp_path):
    first = write_good(tmp_path / "first.pth").read_bytes()
    second = write_good(tmp_path / "second.pth").read_bytes()

    assert first == second


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path):
    path = write_good(tmp_path / "checkpoint.pth")
    before = path.read_bytes()

    with pytest.raises(TypeError):
        write_checkpoint(path, {"network_weights": (item for item in ())})

    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["checkpoint.pth"]


# --- reading -----------------------------------------------------------------------------------


def test_a_checkpoint_of_stock_nnunet_is_read_and_its_numpy_scalars_are_inert(tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    content = {
        "network_weights": OrderedDict(make_weights()),
        "logging": {"dice_per_class_or_region": [[np.float64(0.5), np.float32(0.25)]]},
        "_best_ema": np.float64(0.75),
        "current_epoch": 1000,
        "init_args": {"configuration": "3d_fullres", "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, path)

    read = read_checkpoint(path)

    assert read["init_args"]["configuration"] == "3d_fullres"
    assert torch.equal(read["network_weights"]["first"], make_weights()["first"])
    assert not isinstance(read["_best_ema"], float)


def test_stand_ins_are_known_only_while_a_checkpoint_is_read(tmp_path):
    before = torch.serialization.get_safe_globals()

    read_checkpoint(write_good(tmp_path / "checkpoint.pth"))

    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path, trace = tmp_path / "checkpoint.pth", tmp_path / "trace"
    torch.save({"network_weights": make_weights(), "epoch": Program(trace)}, path)

    with pytest.raises(ModelError, match=REFUSED):
        read_checkpoint(path)

    assert not trace.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_plain_pickle_is_refused_and_not_run(tmp_path, protocol):
    path, trace = tmp_path / "checkpoint.pth", tmp_path / "trace"
    path.write_bytes(pickle.dumps(Program(trace), protocol=protocol))

    with pytest.raises(ModelError, match=REFUSED):
        read_checkpoint(path)

    assert not trace.exists()


def test_the_format_of_2018_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"network_weights": make_weights()}, path, _use_new_zipfile_serialization=False)

    with pytest.raises(ModelError, match=REFUSED):
        read_checkpoint(path)


def test_an_archive_behind_something_else_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pth"
    old_format = io.BytesIO()
    torch.save({"network_weights": {}}, old_format, _use_new_zipfile_serialization=False)
    good = write_good(tmp_path / "good.pth").read_bytes()
    path.write_bytes(old_format.getvalue() + good)

    with pytest.raises(ModelError, match=REFUSED):
        read_checkpoint(path)


def test_a_compressed_archive_is_refused(tmp_path):
    good = write_good(tmp_path / "good.pth")

    path = rewrite(good, tmp_path / "checkpoint.pth", zipfile.ZIP_DEFLATED)

    with pytest.raises(ModelError, match=REFUSED):
        read_checkpoint(path)


def test_a_zip_bomb_is_refused(tmp_path):
    good = write_good(tmp_path / "good.pth")

    path = rewrite(good, tmp_path / "bomb.pth", zipfile.ZIP_DEFLATED, extra=bytes(50_000_000))

    assert path.stat().st_size < 1_000_000
    with pytest.raises(ModelError, match=REFUSED):
        read_checkpoint(path)


def test_a_tensor_that_claims_more_than_is_stored_is_refused(tmp_path):
    path = tmp_path / "checkpoint.pth"
    huge = torch.zeros(1).expand(1000, 1000, 1000)

    write_checkpoint(path, {"network_weights": {"huge": huge}})

    assert path.stat().st_size < 10_000
    with pytest.raises(ModelError, match=REFUSED):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"network_weights": None},
        {"network_weights": {"first": 3}},
        {"network_weights": {1: torch.zeros(1)}},
        {"network_weights": {"first": torch.zeros(2, 2).to_sparse()}},
        {"network_weights": {"first": torch.zeros(2, device="meta")}},
        [1, 2],
        torch.zeros(3),
    ],
    ids=lambda content: str(content)[:30],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_what_holds_no_weights_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)

    with pytest.raises(ModelError, match=REFUSED):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = write_good(tmp_path / "checkpoint.pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])

    with pytest.raises(ModelError, match=REFUSED):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="has no file"):
        read_checkpoint(tmp_path / "missing.pth")


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ModelError, match=REFUSED):
        read_checkpoint(tmp_path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_damage_anywhere_in_the_description_of_tensors_is_refused_or_harmless(tmp_path):
    good = write_good(tmp_path / "good.pth")
    rng = random.Random(0)
    with zipfile.ZipFile(good) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    (name,) = (name for name in entries if name.endswith("data.pkl"))

    outcomes = set()
    for _ in range(400):
        damaged = bytearray(entries[name])
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path = tmp_path / "checkpoint.pth"
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in entries.items():
                archive.writestr(entry, bytes(damaged) if entry == name else content)
        try:
            read_checkpoint(path)
            outcomes.add("read")
        except ModelError:
            outcomes.add("refused")

    assert "refused" in outcomes


# --- hashes ------------------------------------------------------------------------------------


def test_hashes_follow_values_shapes_and_types():
    base = torch.arange(6, dtype=torch.float32)
    weights = {
        "base": base,
        "equal": base.clone(),
        "shape": base.reshape(2, 3),
        "type": base.to(torch.float64),
        "value": base + 1,
    }

    hashes = hash_tensors(weights)

    assert hashes["base"] == hashes["equal"]
    assert len(set(hashes.values())) == 4


def test_the_layout_in_memory_does_not_change_a_hash():
    tensor = torch.rand(2, 3, 4, 5, 6)
    other_layout = tensor.contiguous(memory_format=torch.channels_last_3d)

    assert hash_tensors({"": tensor}) == hash_tensors({"": other_layout})


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor(3), torch.zeros(0), torch.tensor([True]), torch.ones(2, dtype=torch.bfloat16)],
    ids=str,
)
def test_every_kind_of_tensor_has_a_hash(tensor):
    (digest,) = hash_tensors({"": tensor}).values()

    assert len(digest) == 64


# --- the source --------------------------------------------------------------------------------


def calls_of(path: Path) -> list[str]:
    """Return every call in a module as its source text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_only_this_room_loads_checkpoints_and_nothing_is_unpickled_in_full():
    loading = {}
    for path in SOURCE.rglob("*.py"):
        calls = calls_of(path)
        assert not [call for call in calls if call.startswith(("pickle.load", "dill.", "joblib."))]
        assert not [call for call in calls if "allow_pickle=True" in call]
        loading[path.name] = [call for call in calls if call.startswith("torch.load")]

    found = {name: calls for name, calls in loading.items() if calls}
    assert list(found) == ["weights.py"]
    assert all("weights_only=True" in call for call in found["weights.py"])


def test_the_full_unpickler_is_named_nowhere():
    texts = [path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")]

    assert not [text for text in texts if "weights_only=False" in text]
