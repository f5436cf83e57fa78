"""Measurements that say whether they may be believed, and the report of them."""
