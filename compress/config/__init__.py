"""What configuration is made of: frozen values, and the parts of them that are the user's own code."""

from compress.config.values import HubOrFolder, Values, one_key

__all__ = ["HubOrFolder", "Values", "one_key"]
