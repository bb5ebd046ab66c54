"""Acts: the mitmproxy addons and all that reads the clock, the environment, chance, or the network."""

__version__ = "0.1.0"
