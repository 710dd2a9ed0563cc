"""What a recipe will cost, before anything is trained: FLOPs, hours, memory, pictures."""
