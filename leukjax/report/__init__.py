"""Tables, figures and pages that the commands share."""
