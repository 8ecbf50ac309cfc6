"""Run folders: Parquet tables, locations, leases, checkpoints."""
