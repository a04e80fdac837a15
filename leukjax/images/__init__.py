"""Pure functions on batches of images, in JAX."""
