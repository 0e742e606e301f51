"""How fast graphs run beside each other: interleaved rounds, a process each."""
