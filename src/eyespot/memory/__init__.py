"""What outlives a request: the cache, rate limits, the audit log, and kept images."""
