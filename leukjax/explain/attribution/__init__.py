"""Where in an image a network finds its answer: pure functions of a network, images and classes.

A map is float32[p, q] for each image, larger where the image speaks more for the class. Nothing
here knows runs, files or pictures. Maps say what a network uses, not what is true of the cell.
"""
