"""A web page that classifies uploaded images."""
