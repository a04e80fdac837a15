"""Views of an image that mean the same: test-time augmentation."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped

VIEWS = 8


def dihedral(images: Shaped[Array, "n s s c"]) -> Shaped[Array, "8 n s s c"]:
    """Each image turned by 0, 90, 180 and 270 degrees, and the same mirrored left to right.

    A cell has no up and no left: under the microscope all eight are as likely. The first view is
    the image itself, and the views of any one of them are the same eight in another order.
    """
    turned = [jnp.rot90(images, quarter, axes=(1, 2)) for quarter in range(4)]
    return jnp.stack([*turned, *(view[:, :, ::-1] for view in turned)])
