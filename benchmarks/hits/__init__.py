"""What the hot path is compared with: a server's and a router's limit, and the design that it replaces."""
