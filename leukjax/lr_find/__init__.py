"""Finds a learning rate for a config by a range test."""
