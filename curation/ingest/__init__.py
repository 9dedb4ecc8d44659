"""How media come in: folders of files, WebDataset tars, Parquet files. Lists sources and opens one."""
