"""From a folder of images to batches; no JAX, and the only room that knows Grain and TFDS."""
