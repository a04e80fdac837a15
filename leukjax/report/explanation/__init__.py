"""Explanations as files: overlays to look at, raw maps, and a table of where attribution lies."""
