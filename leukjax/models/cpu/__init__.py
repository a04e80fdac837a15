"""Convolution and pooling in the forms that are fastest on XLA:CPU."""
