"""What an update costs as sizes grow, and what devices send to each other."""
