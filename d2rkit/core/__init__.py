"""What every other room stands on: input validation, paths, files, digests, devices and their arithmetic."""
