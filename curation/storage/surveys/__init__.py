"""What lies below inputs: a survey of folders, of buckets, and of data sets on the Hub."""
