"""A workspace served: over HTTP, to many at once, for as long as its documents change."""
