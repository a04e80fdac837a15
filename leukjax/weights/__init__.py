"""Weights in and out: files of other frameworks read (never run), mapped to our models, written."""
