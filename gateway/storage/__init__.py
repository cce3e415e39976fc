"""Pictures and files by ID in a directory or a bucket, until they expire."""
