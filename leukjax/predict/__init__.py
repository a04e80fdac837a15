"""Predicts the class of new images with trained runs."""
