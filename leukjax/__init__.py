"""leukjax trains, compares and applies classifiers of leukaemia cells in JAX."""

__version__ = "0.1.0"
