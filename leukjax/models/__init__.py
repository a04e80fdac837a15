"""Image classifiers as Flax modules; they know no config, no data and no optimizer.

`registry` creates them by name. ``module.apply({"params", "batch_stats"}, images, train=bool)``
takes normalised images float[n, h, w, 3] and returns logits float32[n, num_classes].

Intermediate results are sown in the collection ``intermediates``: ``feature_map`` (the last
features before pooling or tokens; of a `vit` the patch tokens that the class token reads last),
``pooled`` (the input of the head), ``logits``, by transformers ``attention``, and by `vit`
``patch_tokens`` (normalised, after the last block). Values passed in the collection
``perturbations`` are added to ``feature_map`` and to each block's ``attn/attention``, to compute
gradients with respect to them.
"""
