"""Trains several models over folds and seeds."""
