"""Pure JAX functions on batches of images: augmentation, normalisation, distortions."""
