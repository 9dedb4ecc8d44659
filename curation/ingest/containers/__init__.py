"""Files that hold sources: tars, Parquet and lists of paths or URLs."""
