"""Draws a contact sheet of training images."""
