"""Published weights: reading files of other frameworks, mapping them to our models, writing."""
