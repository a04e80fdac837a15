"""What the compilers for GPU and TPU make of a step, read from the program that they write."""
