"""One filter or splitter per file. `color.py` is the smallest complete example."""
