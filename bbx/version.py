"""The version of bbx: here, so that anything may ask for it without importing the API."""

__version__ = "0.1.0"
