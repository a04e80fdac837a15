"""Fused forms of normalisation and convolution, opt-in until measured on a device."""
