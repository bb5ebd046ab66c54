"""Acts: the mitmproxy addons and all that reads the clock, the environment, chance, or the network."""
