"""Data lakes: folders of Parquet files, decoded file by file into folders of the same shape."""
