"""The 159 channels of CXAS by number."""

from __future__ import annotations

_ORDINALS = ("1st", "2nd", "3rd", *(f"{n}th" for n in range(4, 13)))


def _ribs() -> list[str]:
    """36..106: each rib from the 12th up, by end and side, then both sides of each. The 12th has no anterior end."""
    single = ["posterior 12th rib right", "posterior 12th rib left"]
    both = ["12th rib"]
    for ordinal in reversed(_ORDINALS[:-1]):
        single += [f"{end} {ordinal} rib {side}" for side in ("right", "left") for end in ("anterior", "posterior")]
        both += [f"posterior {ordinal} rib", f"anterior {ordinal} rib"]
    return single + both


CHANNELS = (
    "spine", "cervical spine", "thoracic spine", "lumbar spine",
    *(f"vertebrae C{n}" for n in range(1, 8)), *(f"vertebrae T{n}" for n in range(1, 13)),
    *(f"vertebrae L{n}" for n in range(1, 6)),
    "rib_cartilage", "sternum", "clavicles", "clavicle left", "clavicle right", "scapulas", "scapula left",
    "scapula right",
    *_ribs(),
    "diaphragm", "left hemidiaphragm", "right hemidiaphragm", "stomach", "small bowel", "duodenum", "liver", "pancreas",
    "kidney left", "kidney right", "cardiomediastinum", "upper mediastinum", "lower mediastinum",
    "anterior mediastinum", "middle mediastinum", "posterior mediastinum", "heart", "heart atrium left",
    "heart atrium right", "heart myocardium", "heart ventricle left", "heart ventricle right", "aorta",
    "ascending aorta", "descending aorta", "aortic arch", "pulmonary artery", "inferior vena cava", "esophagus",
    "lung", "right lung", "left lung", "lung base", "mid zone lung", "upper zone lung", "apical zone lung",
    *(f"{side} {zone}" for side in ("right", "left")
      for zone in ("upper zone lung", "mid zone lung", "lung base", "apical zone lung")),
    "lung lower lobe left", "lung upper lobe left", "lung lower lobe right", "lung middle lobe right",
    "lung upper lobe right", "trachea", "tracheal bifurcation", "breast", "breast left", "breast right",
)  # fmt: skip
