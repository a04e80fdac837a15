"""The page of `leukjax.demo`: uploads in, answers of one model thread out; nothing is kept."""
