"""How questions are put: by kind and stage.

{finding} a finding with its article, {label} without, {plural} more than one, {image} "CT image", {is_} is or are.
In {finding} and {label} several lesions that are asked about are a plural.
"""

from __future__ import annotations

IMAGES = {
    "CT": "CT image",
    "MR": "MR image",
    "XR": "radiograph",
    "US": "ultrasound image",
    "PET": "PET image",
    "dermoscopy": "dermoscopy image",
    "fundus": "fundus photograph",
    "pathology": "pathology image",
    "other": "image",
}

# With the boxes drawn into the image.
MARKED = {
    "what": (
        "What is the finding inside the box?",
        "Which abnormality does the box mark?",
        "What abnormality is seen in the highlighted region of this {image}?",
        "Name the finding that is outlined in this {image}.",
    ),
    "where": (
        "Where is the {label} that the box marks?",
        "Describe the position of the highlighted {label}.",
        "The box marks {finding}. Where does it lie?",
        "Give the location of the outlined {label} in this {image}.",
    ),
    "is_there": (
        "Does the marked region of this {image} show {finding}?",
        "Is the finding in the box {finding}?",
        "Do you see {finding} where this {image} is marked?",
    ),
    "how_many": (
        "How many {plural} do the boxes mark?",
        "Count the highlighted {plural}.",
        "How many {plural} are outlined in this {image}?",
    ),
    "which_organ": (
        "In which organ or structure is the highlighted {label}?",
        "Which organ or structure does the marked {label} belong to?",
        "The box marks {finding}. Name the organ or structure it is in.",
    ),
}

# Without boxes. "one_of" asks where the annotation need not be complete.
WHOLE = {
    "what": (
        "What abnormality does this {image} show?",
        "Which abnormal findings are present in this {image}?",
        "What is abnormal in this {image}?",
        "Name what is abnormal in this {image}.",
    ),
    "one_of": (
        "Name one abnormality of this {image}.",
        "Give one abnormal finding of this {image}.",
        "Which abnormality can be pointed out in this {image}?",
    ),
    "where": (
        "Where {is_} the {label} in this {image}?",
        "This {image} shows {finding}. Where?",
        "Describe where the {label} {is_}.",
        "Give the location of the {label}.",
    ),
    "is_there": (
        "{Is_} there {finding} in this {image}?",
        "Does this {image} show {finding}?",
        "Can {finding} be seen in this {image}?",
        "Is this {image} positive for {label}?",
    ),
    "how_many": (
        "How many {plural} does this {image} show?",
        "Count the {plural} in this {image}.",
        "How many {plural} can be seen?",
    ),
    "which_organ": (
        "In which organ or structure {is_} the {label}?",
        "Which organ or structure is affected by the {label}?",
        "This {image} shows {finding}. In which organ or structure?",
    ),
}

ORGAN_STEPS = (
    "First the anatomy: the {subject} is {place}.",
    "The {subject} is found {place}.",
    "Anatomically, the {subject} is {place}.",
)
REGION_STEPS = ("It is {place}.", "Its centre is {place}.", "That is {place}.")
FIRST_REGION_STEPS = ("The {subject} is {place}.", "The {subject} has its centre {place}.")
BOX_STEPS = ("It occupies the box {box}.", "Its bounding box is {box}.", "The box around it is {box}.")
FIRST_BOX_STEPS = ("The {subject} occupies the box {box}.", "The bounding box of the {subject} is {box}.")
ABSENT_STEPS = (
    "The whole image is searched for {label}. No part of it shows {label}.",
    "Going over the whole image, no {label} is found.",
    "Nothing in the image is {label}: it was looked for and not found.",
)
