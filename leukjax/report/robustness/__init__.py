"""Reports of robustness: tables, curves, and pictures of what does most harm."""
