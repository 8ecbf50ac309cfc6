"""Parts of a run folder with other rows, as an earlier version without digests would hold them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sweeper.storage.digests import DIGEST


def rewrite(part: Path, table: pa.Table) -> None:
    """Replace the rows of a part; `table` has its metadata."""
    kept = {key: value for key, value in (table.schema.metadata or {}).items() if key != DIGEST}
    pq.write_table(table.replace_schema_metadata(kept), part)
