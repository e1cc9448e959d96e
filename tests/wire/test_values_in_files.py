"""Values written by system calls are the same as those written in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparkray_core.wire import values

VALUES: dict[str, Any] = {
    "small": {"a": 1},
    "array": np.arange(10_000),
    "table": pa.table({"n": range(1000), "s": [str(number) for number in range(1000)]}),
    "batches": pa.Table.from_batches([pa.record_batch({"n": [1, 2]}), pa.record_batch({"n": [3]})]),
    "no rows": pa.table({"n": pa.array([], pa.int64())}),
    "no columns": pa.table({"n": [1, 2]}).select([]),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_file_gets_what_a_view_gets(name: str, tmp_path: Path) -> None:
    serialized = values.serialize(VALUES[name])
    size = values.segment_size(serialized)
    view = bytearray(size)
    values.write_to(memoryview(view), serialized)

    path = tmp_path / "segment"
    path.write_bytes(b"\xff" * (64 + size + 64))
    with path.open("r+b") as file:
        values.write_to_file(file.fileno(), 64, serialized)
    written = path.read_bytes()

    assert written[:64] + written[64 + size :] == b"\xff" * 128
    kind, parts = values.read_from(memoryview(written)[64 : 64 + size])
    assert (kind, [bytes(part) for part in parts]) == (serialized.kind, [bytes(part) for part in serialized.parts])
    header = 16 + 16 * len(parts)
    assert written[64 : 64 + header] == view[:header]
