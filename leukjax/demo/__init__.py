"""Serves a web page that classifies uploaded images."""
