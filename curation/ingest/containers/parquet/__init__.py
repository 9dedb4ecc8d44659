"""Parquet files: which columns hold media, what the other ones say, and the reader."""
