"""Compares trained runs and writes a report."""
