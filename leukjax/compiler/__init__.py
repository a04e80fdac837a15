"""Compiles a step for absent GPUs and TPUs and reads the optimised program."""
