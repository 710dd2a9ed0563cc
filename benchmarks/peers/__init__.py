"""What other libraries do with the same tokens, to be measured beside ours."""
