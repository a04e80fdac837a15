"""An optimizer of your own, for every command.

python -m leukjax.main --import=examples/custom_optimizer.py \\
    --config=configs/cnn.py --config.optimizer.name=sign_momentum \\
    --config.optimizer.options="decay=0.95" --config.optimizer.learning_rate=1e-4

The factory gets the learning rate of the step as a traced scalar, so that one compilation serves
all learning rates and schedules. From Python, give any optax transformation to
``Trainer(optimizer=…)`` instead; it needs no registration.
"""

import jax
import jax.numpy as jnp
import optax

import leukjax as lj


@lj.register_optimizer("sign_momentum")
def sign_momentum(learning_rate: jax.Array, decay: float = 0.9) -> optax.GradientTransformation:
    """Steps of one size in the direction of the sign of a moving average of the gradients."""
    return optax.chain(
        optax.ema(decay),
        optax.stateless_with_tree_map(lambda update, _: jnp.sign(update)),
        optax.scale_by_learning_rate(learning_rate),
    )
