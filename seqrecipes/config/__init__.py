"""A person's configuration: frozen dataclasses that say themselves which values they accept.

Nothing here imports JAX, TensorFlow or anything that does, so that a mistake in a gin file or in a
flag is answered at once.
"""
