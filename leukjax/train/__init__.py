"""From batches to a trained state: one jitted step, one loop, exact resume."""
