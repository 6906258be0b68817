"""Data: where samples come from and which role each one plays."""

from compress.data.samples import ROLES, Data, Role, Samples

__all__ = ["ROLES", "Data", "Role", "Samples"]
