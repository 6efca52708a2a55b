"""Take a simulated screen of any size through every command, and see what each needs."""
