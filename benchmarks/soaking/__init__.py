"""What `benchmarks.soak` is made of: what must hold, who asks, and what goes wrong meanwhile."""
