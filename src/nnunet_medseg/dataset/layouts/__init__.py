"""One file a layout, each with the same `NAME`, `recognise` and `read`."""
