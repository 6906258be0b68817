"""The store: directories that are written once."""
