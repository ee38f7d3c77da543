"""Drawn chest films and CT slices with known organs and lesions: for tests, demonstrations and small experiments.

They are no patients and no substitute for them; they show that a pipeline works, and what a model can learn at all.

What is drawn how often (all draws of one line are independent of those of the others):

    patients    six images are three patients, of 1, 2 and 3 images; the anatomy of a patient stays the same
    kind        chest film 1/2, chest CT 1/4, abdominal CT 1/4; half of the CTs are volumes, half are PNGs
    lesions     none 30 %, one 42 %, two 19 %, three 9 %; where no room is left for one it is left out
    label       chest: nodule, mass, consolidation, pleural effusion, 1/4 each; abdomen: cyst, mass, calcification,
                1/3 each
    side        right or left, 1/2 each, whatever the label
    organ       of that side, equally likely: the lobes of the lung (three right, two left); liver or right kidney,
                spleen or left kidney. An effusion lies in the whole lung
    size        uniform in mm: nodule 9-29, mass 31-62 (abdomen 13-38), consolidation 30-66, cyst 11-36, calcification
                5-14: a nodule is one because it is smaller than 30 mm; elsewhere sizes overlap
    contrast    uniform, down to the edge of the visible; where vessels or bones would hide it, another place is taken

So of label, side and organ none tells another, but that a chest has no kidneys and only a lung has effusions.
``absent`` holds each label that is looked for in that kind of picture and is not in it.

The patient's right is on the left of every picture. Lobes of a film lie beside one another; in a patient they overlap.
"""

from medclm.phantom.files import cases, generate
from medclm.phantom.views import ORGANS

__all__ = ["ORGANS", "cases", "generate"]
