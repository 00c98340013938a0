"""Standard codes for what a label is called: SNOMED CT, as far as pydicom's dictionary knows it.

Names are compared without case, number and separators (`Left_Kidneys` is a kidney on the left). A
name that is not in the table is coded as tissue, the neutral code of the standard's own list; the
name itself is always written beside the code, so that nothing is lost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.sr.coding import Code

__all__ = ["Meaning", "meaning_of"]

ORGANS = {
    "adrenal": "AdrenalGland",
    "adrenal gland": "AdrenalGland",
    "aorta": "Aorta",
    "bladder": "UrinaryBladder",
    "bone": "Bone",
    "bowel": "Intestine",
    "brain": "Brain",
    "brainstem": "BrainStem",
    "brain stem": "BrainStem",
    "breast": "Breast",
    "cerebellum": "Cerebellum",
    "colon": "Colon",
    "duodenum": "Duodenum",
    "esophagus": "Esophagus",
    "eye": "Eye",
    "femur": "Femur",
    "gallbladder": "Gallbladder",
    "heart": "Heart",
    "hippocampus": "Hippocampus",
    "kidney": "Kidney",
    "larynx": "Larynx",
    "left atrium": "LeftAtrium",
    "liver": "Liver",
    "lung": "Lung",
    "mandible": "Mandible",
    "muscle": "SkeletalMuscle",
    "oesophagus": "Esophagus",
    "optic nerve": "OpticNerve",
    "ovary": "Ovary",
    "pancreas": "Pancreas",
    "parotid": "ParotidGland",
    "parotid gland": "ParotidGland",
    "pelvis": "Pelvis",
    "portal vein": "PortalVein",
    "prostate": "Prostate",
    "rectum": "Rectum",
    "rib": "Rib",
    "sacrum": "Sacrum",
    "scapula": "Scapula",
    "skin": "Skin",
    "small bowel": "SmallIntestine",
    "spinal cord": "SpinalCord",
    "spine": "Spine",
    "spleen": "Spleen",
    "stomach": "Stomach",
    "thyroid": "Thyroid",
    "trachea": "Trachea",
    "urinary bladder": "UrinaryBladder",
    "uterus": "Uterus",
    "vertebra": "Vertebra",
}
FINDINGS = {
    "cancer": "Neoplasm",
    "cyst": "Cyst",
    "edema": "Edema",
    "gtv": "Neoplasm",
    "lesion": "Lesion",
    "mass": "Mass",
    "metastasis": "Neoplasm",
    "necrosis": "Necrosis",
    "neoplasm": "Neoplasm",
    "nodule": "Nodule",
    "oedema": "Edema",
    "tumor": "Neoplasm",
    "tumour": "Neoplasm",
}
SIDES = {"left": "Left", "l": "Left", "lt": "Left", "right": "Right", "r": "Right", "rt": "Right"}
PLURALS = {"vertebrae": "vertebra", "metastases": "metastasis", "ovaries": "ovary"}


@dataclass(frozen=True)
class Meaning:
    """Codes of a structure.

    Attributes:
        category: Tissue, anatomical or morphologically abnormal structure.
        kind: Which one.
        side: Left or right; None where the name does not say.
    """

    category: Code
    kind: Code
    side: Code | None = None


def meaning_of(name: str) -> Meaning:
    """Return the codes for the name of a label."""
    from pydicom.sr.codedict import codes

    sct = codes.SCT
    spaced = re.sub("([a-z])([A-Z])", r"\1 \2", name).lower()
    # A letter with a number is no side: the vertebra L1.
    words = re.findall("[a-z](?![a-z])[0-9]+|[a-z]+", spaced)
    sides = [SIDES[word] for word in words if word in SIDES]
    whole = _entry(" ".join(words))
    if whole is None and len(sides) == 1:
        whole = _entry(" ".join(word for word in words if word not in SIDES))
    else:
        sides = []
    if whole is None:
        return Meaning(sct.Tissue, sct.Tissue)
    category = sct.MorphologicallyAbnormalStructure if whole[1] else sct.AnatomicalStructure
    return Meaning(category, getattr(sct, whole[0]), getattr(sct, sides[0]) if sides else None)


def _entry(text: str) -> tuple[str, bool] | None:
    """Return the keyword of pydicom for a name, and whether it is a finding."""
    for form in (text, PLURALS.get(text, text), text.removesuffix("s")):
        if form in ORGANS:
            return ORGANS[form], False
        if form in FINDINGS:
            return FINDINGS[form], True
    return None
