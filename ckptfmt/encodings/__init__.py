"""How an object's bytes are stored, one file an encoding: pure, lossless maps of one frame's bytes.

`table` names them, `chooser` chooses between them; importing this package alone loads neither, nor numpy.
"""
