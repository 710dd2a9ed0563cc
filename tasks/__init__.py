"""Which data: seqio registrations, meant to be read and edited."""
