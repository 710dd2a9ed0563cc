"""Sequential pre-training of multilingual encoders and sequence-to-sequence models in JAX."""

__version__ = "0.1.0"
