"""Writes a trained run in formats that need no leukjax."""
