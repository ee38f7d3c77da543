"""WebDataset: tar shards of ``<key>.png`` and ``<key>.json``, the same bytes for the same rows."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from medclm.codecs import Codec
from medclm.exports.conversations import annotation
from medclm.exports.images import image_bytes
from medclm.exports.text import turns

ROWS_A_SHARD = 1000


class TarWriter:
    """``<part>-000000.tar``, .. of ROWS_A_SHARD rows. A key is the row's place in its part."""

    def __init__(self, folder: Path, codec: Codec) -> None:
        self._folder, self._codec = folder, codec
        self._open: dict[str, tarfile.TarFile] = {}
        self._counts: dict[str, int] = {}

    def add(self, part: str, row: Mapping) -> None:
        count = self._counts.get(part, 0)
        if count % ROWS_A_SHARD == 0:
            if part in self._open:
                self._open[part].close()
            path = self._folder / f"{part}-{count // ROWS_A_SHARD:06d}.tar"
            self._open[part] = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)
        record = json.dumps(annotation(row, turns(row, self._codec)), sort_keys=True, ensure_ascii=False)
        _add(self._open[part], f"{count:09d}.png", image_bytes(row))
        _add(self._open[part], f"{count:09d}.json", record.encode())
        self._counts[part] = count + 1

    def close(self) -> None:
        for file in self._open.values():
            file.close()

    abandon = close


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # time, owner and mode as tarfile's defaults: constants
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
