"""Writes and reads checkpoints, with checksums."""
