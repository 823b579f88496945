"""What the worker says to the page's transport, which has the peers: web/swarm/port.d.ts has it."""
