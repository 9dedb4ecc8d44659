"""Buckets as storages: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

The only modules that import obstore.
"""
