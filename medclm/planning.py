"""Cases -> work items in shards: who is in which split, and which image the hard stage shows instead.

The cases stand in a manifest on disk and are read twice. In memory is what every case needs to be placed: hashes and
an offset, some fifty bytes, whatever its lesions and masks weigh.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medclm.cases import Case
from medclm.privacy import hashed
from medclm.problems import DataError, Problems, Reason
from medclm.schema import SPLITS
from medclm.settings import Settings

NO_LESION = "none"  # stands for the label in the domain of an image without lesions
UNSPLIT = len(SPLITS)


def domain(label: str, modality: str) -> str:
    return f"{label}_{modality}"


def write_manifest(cases: Iterable[Case], path: Path) -> str:
    """One case a line; returns the SHA-256 of the file."""
    hashed = hashlib.sha256()
    with open(path, "wb") as file:
        for case in cases:
            line = case.to_json().encode() + b"\n"
            hashed.update(line)
            file.write(line)
    return hashed.hexdigest()


@dataclass
class Places:
    """What places the cases, one element a case in the manifest's order.

    offsets        bytes into the manifest
    ids, patients  the first 8 bytes of salted hashes; ids two to a case (16 bytes)
    splits         the source's own: index into SPLITS, or UNSPLIT
    domain_of, domain_case  one element a case and domain: index of the domain's name, index of the case
    """

    offsets: np.ndarray  # uint64 [N]
    ids: np.ndarray  # uint64 [N, 2]
    patients: np.ndarray  # uint64 [N]
    splits: np.ndarray  # uint8 [N]
    domain_of: np.ndarray  # int64 [D], D >= N
    domain_case: np.ndarray  # int64 [D]


def read_places(manifest: Path, salt: str) -> Places:
    """The first pass."""
    offsets, ids, patients, splits = array("Q"), bytearray(), bytearray(), array("B")
    domain_of, domain_case = array("q"), array("q")
    numbers: dict[str, int] = {}
    with open(manifest, "rb") as file:
        offset = 0
        for number, line in enumerate(file):
            raw = json.loads(line)
            offsets.append(offset)
            offset += len(line)
            ids += bytes.fromhex(hashed("case", raw["source"], raw["id"], salt=salt))
            patients += bytes.fromhex(hashed("patient", raw["source"], raw["patient"], salt=salt))[:8]
            own = raw["split"]
            if own is not None and own not in SPLITS:
                raise DataError(f"case {raw['id']}: expected a split of {', '.join(SPLITS)}, got {own!r}")
            splits.append(UNSPLIT if own is None else SPLITS.index(own))
            labels = dict.fromkeys(lesion["label"] for lesion in raw["lesions"]) or {NO_LESION: None}
            for label in labels:
                domain_of.append(numbers.setdefault(domain(label, raw["modality"]), len(numbers)))
                domain_case.append(number)
    return Places(
        np.array(offsets, np.uint64),
        np.frombuffer(ids, np.uint64).reshape(-1, 2),
        np.frombuffer(patients, np.uint64),
        np.array(splits, np.uint8),
        np.array(domain_of, np.int64),
        np.array(domain_case, np.int64),
    )


def first_of_each_id(ids: np.ndarray) -> np.ndarray:  # uint64 [N, 2] -> bool [N]
    """False where an earlier case has the same id."""
    keep = np.zeros(len(ids), bool)
    keep[np.unique(ids, axis=0, return_index=True)[1]] = True
    return keep


def split_patients(places: Places, settings: Settings) -> np.ndarray:  # int64 [N], indices into SPLITS
    """All images of a patient into one split, by the patient's salted hash; with keep_split where the source says.

    Raises DataError where the source's own split tears a patient apart.
    """
    patients, inverse = np.unique(places.patients, return_inverse=True)
    share = patients.astype(np.float64) / 2.0**64
    by_hash = np.searchsorted(np.cumsum(settings.ratios)[:-1], share, side="right")
    if settings.keep_split:
        told = places.splits < UNSPLIT
        lowest = np.full(len(patients), UNSPLIT)
        highest = np.full(len(patients), -1)
        np.minimum.at(lowest, inverse[told], places.splits[told].astype(np.int64))
        np.maximum.at(highest, inverse[told], places.splits[told].astype(np.int64))
        if torn := int(np.sum((highest >= 0) & (lowest != highest))):
            raise DataError(f"keep_split: the source's own split has {torn} patients in more than one part")
        by_hash = np.where(highest >= 0, highest, by_hash)
    return by_hash[inverse]


def find_partners(places: Places, splits: np.ndarray, keep: np.ndarray) -> np.ndarray:  # int64 [N], -1: none
    """For each case another image of the same domain and split, of another patient where there is one.

    In each domain the patients form a ring in the manifest's order, and a case takes its image from the next patient.
    So every image serves about as often as any other, and neighbours find their partners in one volume, not in many.
    """
    _, first, inverse = np.unique(places.patients, return_index=True, return_inverse=True)
    patient = first[inverse]  # the number of the patient's first case: patients in the manifest's order
    chosen = keep[places.domain_case]
    case, of = places.domain_case[chosen], places.domain_of[chosen]
    order = np.lexsort((case, patient[case], of, splits[case]))
    case, of = case[order], of[order]
    # A ring is one domain of one split, a run the images of one of its patients.
    new_ring = _changes(np.stack([splits[case], of]))
    new_run = new_ring | _changes(patient[case][None])
    run_start = np.flatnonzero(new_run)
    run = np.cumsum(new_run) - 1
    run_size = np.diff(np.append(run_start, len(case)))
    ring_first_run = run[np.flatnonzero(new_ring)]
    ring = np.cumsum(new_ring) - 1
    ring_runs = np.diff(np.append(ring_first_run, len(run_start)))

    within = np.arange(len(case)) - run_start[run]
    next_run = ring_first_run[ring] + (run - ring_first_run[ring] + 1) % ring_runs[ring]
    alone = ring_runs[ring] == 1
    partner = case[run_start[next_run] + np.where(alone, within + 1, within) % run_size[next_run]]
    # Of a case's several domains the first in which another patient is found, else the first with another image.
    quality = np.where(partner == case, 2, np.where(alone, 1, 0))
    told = np.flatnonzero(chosen)[order]  # the order in which the case names its domains
    best = np.lexsort((told, quality, case))
    best = best[_changes(case[best][None])]
    found = np.full(len(keep), -1, np.int64)
    found[case[best]] = np.where(quality[best] < 2, partner[best], -1)
    return found


def _changes(keys: np.ndarray) -> np.ndarray:  # [K, N] -> bool [N]: where a key differs from the one before
    first = np.ones(keys.shape[1], bool)
    first[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    return first


def write_items(manifest: Path, folder: Path, settings: Settings, problems: Problems) -> list[tuple[str, int]]:
    """``folder/<shard>.jsonl``, one work item a line: ``{"case", "partner", "split"}``.

    Returns the shards and how many images each has. Cases keep their order within a split.
    """
    places = read_places(manifest, settings.salt)
    keep = first_of_each_id(places.ids)
    splits = split_patients(places, settings)
    partners = find_partners(places, splits, keep)
    folder.mkdir(parents=True, exist_ok=True)
    shards: dict[str, int] = {}
    counts = dict.fromkeys(SPLITS, 0)
    with ExitStack() as stack:
        lines, others = (stack.enter_context(open(manifest, "rb")) for _ in range(2))
        files = {split: stack.enter_context(ExitStack()) for split in SPLITS}
        writers = {}
        for number, line in enumerate(lines):
            if not keep[number]:
                raw = json.loads(line)
                problems.add(Reason.DUPLICATE_ID, f"{raw['source']} {raw['id']}: kept the first")
                continue
            split = SPLITS[splits[number]]
            shard = f"{split}-{counts[split] // settings.shard_cases:06d}"
            counts[split] += 1
            if shard not in shards:
                files[split].close()
                writers[split] = files[split].enter_context(open(folder / f"{shard}.jsonl", "wb"))
            shards[shard] = shards.get(shard, 0) + 1
            writers[split].write(_item(line, others, partners[number], places.offsets, split))
    return sorted(shards.items())


def _item(line: bytes, manifest: BinaryIO, partner: int, offsets: np.ndarray, split: str) -> bytes:
    other = b"null"
    if partner >= 0:
        manifest.seek(int(offsets[partner]))
        other = manifest.readline().rstrip()
    return b'{"split":"%s","case":%s,"partner":%s}\n' % (split.encode(), line.rstrip(), other)
