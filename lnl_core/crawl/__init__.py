"""The growing collection: its listing and reader, its preparation, and the next version of it."""
