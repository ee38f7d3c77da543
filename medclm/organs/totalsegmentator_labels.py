"""Label ids of TotalSegmentator's tasks: only for multilabel files that lost their label table.

The same number is another organ in each: 7 is the aorta in v1 and the pancreas in v2 and MR.
"""

from __future__ import annotations


def _pairs(*names: str) -> list[str]:
    return [f"{name}_{side}" for name in names for side in ("left", "right")]


def _spine(*levels: str) -> list[str]:
    return [f"vertebrae_{level}" for level in levels]


_RIBS = [f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)]
_LOBES = [f"lung_{lobe}" for lobe in ("upper_lobe_left", "lower_lobe_left", "upper_lobe_right", "middle_lobe_right",
                                      "lower_lobe_right")]  # fmt: skip
_L5_TO_C1 = _spine(*(f"L{n}" for n in range(5, 0, -1)), *(f"T{n}" for n in range(12, 0, -1)),
                   *(f"C{n}" for n in range(7, 0, -1)))  # fmt: skip
_FIRST = ["spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach"]
_LIMBS = _pairs("humerus", "scapula", "clavicula", "femur", "hip")
_GLUTEI = _pairs("gluteus_maximus", "gluteus_medius", "gluteus_minimus")
_BACK = _pairs("autochthon", "iliopsoas")
_ILIAC = _pairs("iliac_artery", "iliac_vena")

_V1 = [
    *_FIRST, "aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein", "pancreas", "adrenal_gland_right",
    "adrenal_gland_left", *_LOBES, *_L5_TO_C1, "esophagus", "trachea", "heart_myocardium", "heart_atrium_left",
    "heart_ventricle_left", "heart_atrium_right", "heart_ventricle_right", "pulmonary_artery", "brain", *_ILIAC,
    "small_bowel", "duodenum", "colon", *_RIBS, *_LIMBS, "sacrum", "face", *_GLUTEI, *_BACK, "urinary_bladder",
]  # fmt: skip
_V2 = [
    *_FIRST, "pancreas", "adrenal_gland_right", "adrenal_gland_left", *_LOBES, "esophagus", "trachea", "thyroid_gland",
    "small_bowel", "duodenum", "colon", "urinary_bladder", "prostate", *_pairs("kidney_cyst"), "sacrum",
    *_spine("S1"), *_L5_TO_C1, "heart", "aorta", "pulmonary_vein", "brachiocephalic_trunk", "subclavian_artery_right",
    "subclavian_artery_left", "common_carotid_artery_right", "common_carotid_artery_left",
    *_pairs("brachiocephalic_vein"), "atrial_appendage_left", "superior_vena_cava", "inferior_vena_cava",
    "portal_vein_and_splenic_vein", *_ILIAC, *_LIMBS, "spinal_cord", *_GLUTEI, *_BACK, "brain", "skull", *_RIBS,
    "sternum", "costal_cartilages",
]  # fmt: skip
_MR = [
    *_FIRST, "pancreas", "adrenal_gland_right", "adrenal_gland_left", *_pairs("lung"), "esophagus", "small_bowel",
    "duodenum", "colon", "urinary_bladder", "prostate", "sacrum", "vertebrae", "intervertebral_discs", "spinal_cord",
    "heart", "aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein", *_ILIAC, *_LIMBS, *_GLUTEI, *_BACK, "brain",
]  # fmt: skip

LABELS: dict[str, dict[int, str]] = {
    version: dict(enumerate(names, start=1)) for version, names in (("v1", _V1), ("v2", _V2), ("mr", _MR))
}
