"""Write the JSON schema of records anew: ``python -m hydrapress_registry.schema_file``."""

from __future__ import annotations

from hydrapress.schema import to_json
from hydrapress_registry.records import record_schema, shipped_folder

if __name__ == "__main__":
    path = shipped_folder() / "record.schema.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(to_json(record_schema()), encoding="utf-8")
