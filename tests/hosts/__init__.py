"""Test hosts without a container registry: an engine, images, and a mirror of the addresses that roles use.

`python tests/hosts up` makes everything that a molecule scenario needs; docs/testing.md says what and why.
"""
