"""Trains: one jitted step, one loop, exact resume."""
