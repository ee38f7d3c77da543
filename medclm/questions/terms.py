"""Sets whose terms forbid handing their rows to a third party, as an outside model is."""

from __future__ import annotations

import re

from medclm.cases import Case
from medclm.problems import DataError

# PhysioNet's credentialed sets, what derives from them, and sets given out under a signed agreement.
SOURCES_KEPT = ("vindr", "vinbigdata", "mimic", "chexmask", "eicu", "padchest", "chexpert", "brats", "kits")
_TERMS_KEPT = re.compile(r"physionet|credentialed|use agreement|\bdua\b|no[ -]redistribution|research use only", re.I)


def may_leave(case: Case) -> bool:
    """Whether the terms of the case's source are not known to forbid it."""
    source = re.sub(r"[^a-z0-9]", "", case.source.lower())
    return not source.startswith(SOURCES_KEPT) and not _TERMS_KEPT.search(case.licence)


def refuse_to_send(case: Case, where: str) -> None:
    """Raises DataError where :func:`may_leave` says no."""
    if not may_leave(case):
        raise DataError(
            f"teacher: rows of {case.source} ({case.licence}) may not be sent to {where}: the terms of the source keep "
            "them on your machines; use a local model or no teacher"
        )
