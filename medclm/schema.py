"""The row of a converted set: one question about one image. Parquet, one file a shard."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 1
STAGES = ("easy", "medium", "hard")
SPLITS = ("train", "val", "test")
ANSWER_TYPES = ("OPEN", "CLOSED")
KINDS = ("what", "where", "is_there", "how_many", "which_organ")
METADATA = {"medclm.schema_version": str(SCHEMA_VERSION)}

_box = pa.list_(pa.float32(), 4)

# Boxes are in pixels of the stored image (width x height); orig_width, orig_height are those of the source's.
FIELDS = (
    ("id", pa.string()),  # case, kind and stage; unique in the set
    ("case", pa.string()),  # salted hash of source and case id: rows about one image share it
    ("source", pa.string()),
    ("split", pa.string()),  # of SPLITS, by patient
    ("patient", pa.string()),  # salted hash
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),  # PNG; path: None, or a name in the set
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("orig_width", pa.int32()),
    ("orig_height", pa.int32()),
    ("modality", pa.string()),
    ("laterality_verified", pa.bool_()),  # left and right come from a world axis or an organ's name
    ("domain", pa.string()),  # "<lesion label>_<modality>": what the curriculum and the hard stage go by
    ("boxes", pa.list_(_box)),
    ("labels", pa.list_(pa.string())),
    ("organs", pa.list_(pa.string())),  # the host of each box; "background" where there is none
    ("organ_score", pa.list_(pa.float32())),  # of the rule that chose it
    ("organ_iou", pa.list_(pa.float32())),
    ("organ_coverage", pa.list_(pa.float32())),
    ("organ_regions", pa.list_(pa.string())),  # medclm.regions.Region of each host organ, encoded; "" without mask
    ("host_rule", pa.string()),
    ("kind", pa.string()),  # of KINDS
    ("stage", pa.string()),  # of STAGES
    ("box_drawn", pa.bool_()),  # into the pixels
    ("seed_text", pa.string()),
    ("question", pa.string()),
    ("cot", pa.string()),  # reasoning; "" in the hard stage. Boxes stand in it as <box:0>, <box:1>: indices into boxes
    ("answer", pa.string()),
    ("answer_type", pa.string()),  # of ANSWER_TYPES
    ("cot_source", pa.string()),  # "template", or the name of the teacher; "" in the hard stage
    ("licence", pa.string()),
    ("provenance_hash", pa.string()),  # of the case, the settings and the version: equal hashes, equal rows
)  # fmt: skip
SCHEMA = pa.schema([pa.field(name, kind) for name, kind in FIELDS], metadata=METADATA)
