"""Checks the printed numbers of a paper, or a folder of images."""
