"""Explains predictions: attribution maps, overlays and a table."""
