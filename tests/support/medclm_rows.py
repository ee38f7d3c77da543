"""One row of a set, as training reads it."""

import io

import numpy as np
from PIL import Image


def png(width: int = 70, height: int = 50) -> dict:
    file = io.BytesIO()
    grey = np.arange(width * height, dtype=np.uint32).reshape(height, width).astype(np.uint8)
    Image.fromarray(grey).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def row(**more: object) -> dict:
    found = dict(
        id="r1", image=png(), question="Is <box:0> a nodule?", boxes=[[7.0, 5.0, 21.0, 20.0]], labels=["nodule"],
        width=70, height=50,
    )  # fmt: skip
    return found | more
