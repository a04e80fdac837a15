"""Tables and figures: from scores and predictions to what a person reads."""
