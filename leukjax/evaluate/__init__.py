"""Scores a trained run again."""
