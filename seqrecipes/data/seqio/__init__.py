"""The only place that imports seqio or TensorFlow: tasks for seqio, TFDS.

Nothing here is imported unless a user asks for it: training, fine-tuning and preparing text do
without.
"""
