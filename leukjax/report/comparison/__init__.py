"""The report that `leukjax.compare` writes: inputs, numbers, tables, figures, page."""
