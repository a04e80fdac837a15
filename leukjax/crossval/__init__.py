"""Cross-validation: trains several models over the same folds and seeds."""
