"""Draws a sheet of training images before a run."""
