"""What lies beside a dataset for others to read: the dataset card."""
