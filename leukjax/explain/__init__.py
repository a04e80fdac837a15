"""Shows where in an image a model finds its answer."""
