"""The environment of nnU-Net, and the log that takes what it prints."""

from __future__ import annotations

import logging
import os
import platform
import sys

import pytest

from nnunet_medseg.nnunet import environment
from nnunet_medseg.nnunet.environment import (
    chatter,
    prepare,
    scrub,
)


@pytest.fixture
def variables(monkeypatch):
    """Return a copy of the environment, which is the environment during the test."""
    copy = dict(os.environ)
    monkeypatch.setattr(os, "environ", copy)
    return copy


def test_nnunet_finds_its_folders_in_the_environment(variables, tmp_path):
    prepare({"nnUNet_raw": tmp_path / "raw"})

    assert variables["nnUNet_raw"] == str(tmp_path / "raw")


def test_nothing_is_uploaded_unpickled_or_imported_from_elsewhere(variables):
    variables["nnUNet_extTrainer"] = "/somewhere"

    prepare()

    assert variables["nnUNet_wandb_enabled"] == "0"
    assert variables["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert "nnUNet_extTrainer" not in variables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reading /data/Miller_Anna/img.nii.gz", "reading <path>"),
        ("reading '/data/Miller Anna/img 1.nii.gz' now", "reading '<path>' now"),
        ('File "/usr/lib/python3/x.py", line 3', 'File "<path>", line 3'),
        ("/data/Miller Anna/img.nii.gz", "<path>"),
        ("/data/Miller, Anna (2)/img.nii.gz", "<path>"),
        ("/data/Miller Anna.nii.gz is damaged", "<path> is damaged"),
        ("/data/Anna O'Brien/img.nii.gz", "<path>"),
        ("no folder '/data/Anna Miller'", "no folder '<path>'"),
        ("copy /a/b.nii to /c/d.nii", "copy <path>"),
        (r"reading C:\Users\Anna\img.nii", "reading <path>"),
        ("folder=/data/x", "folder=<path>"),
        ("(/data/x, /data/y)", "(<path>"),
        ("The file /data/Miller Anna/x y.json cannot be read.", "The file <path> cannot be read."),
        ("/data/a.json of /data/Miller Anna", "<path>"),
        ("/data/Anna.txt Miller/x", "<path>"),
        ("cannot read /data/Miller Anna", "cannot read <path>"),
        ("/data/1953-07-21/Miller: Anna <1>/img.nii.gz", "<path>"),
        ("""no file: "/data/Anna O'Brien/img.nii.gz" there""", 'no file: "<path>" there'),
        (r"b'/data/M\xc3\xbcller O\'Brien/x'", "b'<path>'"),
        ("file:///data/M%C3%BCller/x.nii", "<path>"),
        ("from ../data/Miller Anna/x", "from <path>"),
        ("from ~/data/Miller", "from <path>"),
        ("KeyError: 'Miller Anna/img.nii.gz'", "KeyError: '<path>'"),
        ("Miller_Anna/IMG.NRRD is damaged", "<path> is damaged"),
        ("3 / 5 cases", "3 / 5 cases"),
        ("Dice 0.5, 12 mm/px, and/or", "Dice 0.5, 12 mm/px, and/or"),
        ("patch [40, 56, 40]\nbatch 2", "patch [40, 56, 40]\nbatch 2"),
        ("/a/b\n/c/d", "<path>\n<path>"),
        ("", ""),
    ],
)
def test_paths_are_scrubbed_and_nothing_else_is(text, expected):
    assert scrub(text) == expected


def test_the_name_of_the_machine_is_scrubbed(monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "radiology-17")

    assert scrub("on radiology-17.local, Radiology-17") == "on <machine>.local, <machine>"


def test_the_name_of_the_user_is_scrubbed(monkeypatch):
    monkeypatch.setattr(environment, "_user", lambda: "amiller")

    assert scrub("for amiller") == "for <user>"


@pytest.mark.parametrize("name", ["root", "pc"])
def test_a_name_that_is_a_word_of_its_own_is_left(monkeypatch, name):
    monkeypatch.setattr(platform, "node", lambda: name)

    assert scrub(f"a {name} of 2") == f"a {name} of 2"


def test_chatter_goes_to_the_log_without_paths(tmp_path, capsys):
    log = tmp_path / "log.txt"

    with chatter(log):
        sys.stdout.write("reading /data/Miller/img.nii.gz\n")
        sys.stderr.write("trouble\n")
    sys.stdout.write("afterwards\n")

    assert log.read_text() == "reading <path>\ntrouble\n"
    assert capsys.readouterr() == ("afterwards\n", "")


def test_chatter_is_added_to_what_the_log_holds(tmp_path):
    log = tmp_path / "log.txt"

    for word in ("one", "two"):
        with chatter(log):
            sys.stdout.write(word + "\n")

    assert log.read_text() == "one\ntwo\n"


def test_output_comes_back_after_an_error(tmp_path, capsys):
    with pytest.raises(RuntimeError), chatter(tmp_path / "log.txt"):
        raise RuntimeError
    sys.stdout.write("afterwards\n")

    assert capsys.readouterr().out == "afterwards\n"


def test_chatter_takes_names_that_are_no_unicode(tmp_path):
    log = tmp_path / "log.txt"

    with chatter(log):
        sys.stdout.write("case \udce4\n")

    assert log.read_text() == "case \\udce4\n"


def test_a_logger_made_in_chatter_may_go_on_after_it(tmp_path, capsys):
    with chatter(tmp_path / "log.txt"):
        handler = logging.StreamHandler()
    logger = logging.getLogger("made in chatter")
    logger.addHandler(handler)

    logger.warning("afterwards")
    logger.removeHandler(handler)

    assert "Traceback" not in capsys.readouterr().err
