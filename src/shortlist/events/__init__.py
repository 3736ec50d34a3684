"""What happened: logs read from where they lie, made canonical, kept; and the durable log of what happens now."""
