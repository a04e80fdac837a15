"""Many runs as one study: models, folds and seeds; what is chosen, joined and opened once."""
