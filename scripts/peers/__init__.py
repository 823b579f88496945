"""Other engines beside Doppler: what scripts/bench_peers is made of."""
