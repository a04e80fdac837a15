"""A trained run at work: probabilities, reasons, exports. Needs a work directory, no data."""
