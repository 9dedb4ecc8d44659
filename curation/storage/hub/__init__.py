"""Data sets on the Hugging Face Hub: read as inputs, written by `curation publish` alone.

The only modules that know the Hub's data sets; `curation/pipeline/models.py` knows its models.
"""
