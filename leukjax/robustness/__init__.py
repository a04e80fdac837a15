"""Measures how scores degrade under image corruptions."""
